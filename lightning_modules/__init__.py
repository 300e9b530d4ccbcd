"""How a model learns: losses, optimizers, schedules and what is logged."""
