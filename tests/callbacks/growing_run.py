"""A run of seconds whose model grows: four neurons become eight."""

GROWING = (
    "model=crystal",
    "model.capacity=8",
    "model.founders=4",
    "model.num_codes=2",
    "model.epochs=4",
    "model.growth.every=1",
    "model.growth.base=[[1.0, 2]]",
    "model.freezing=null",
    "trainer.max_steps=4",
    "~callbacks.ablation",
)
