"""Work beside training that leaves its random numbers as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import LightningModule


@contextmanager
def undisturbed(pl_module: LightningModule) -> Iterator[None]:
    """Torch's random state is the same after the block as before, on the CPU and the module's GPU.

    Even making an iterator of a data loader draws a number.
    """
    device = pl_module.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
