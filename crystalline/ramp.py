"""What grows with training."""


def ramp(progress: float, start: float, end: float) -> float:
    """0 until `start`, 1 from `end` on, a line between; all three are shares of training."""
    return min(1.0, max(0.0, (progress - start) / (end - start)))
