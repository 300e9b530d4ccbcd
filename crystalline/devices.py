"""Which devices a run uses, and in which precision."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from crystalline.errors import UserError


@dataclass(frozen=True)
class Devices:
    """What `trainer.accelerator`, `devices` and `precision` come to on this machine."""

    accelerator: str
    count: int
    precision: str


def resolve_devices(trainer: DictConfig) -> Devices:
    """Look at the machine.

    Raises:
        UserError: If the machine has no such devices, or too few.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    accelerator = trainer.accelerator
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise UserError(f"trainer.accelerator must be auto, cpu or gpu, got {accelerator!r}")
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "cpu"
    on_gpu = accelerator in ("gpu", "cuda")
    if on_gpu and not gpus:
        raise UserError(
            "this machine has no GPU that torch can use; take trainer=cpu or trainer=auto"
        )
    count = gpus if trainer.devices in ("auto", -1) and on_gpu else trainer.devices
    count = 1 if count == "auto" else count
    if not isinstance(count, int) or count < 1:
        raise UserError(
            f"trainer.devices must be a positive number or auto, got {trainer.devices!r}"
        )
    if on_gpu and count > gpus:
        raise UserError(
            f"trainer.devices={count}, but this machine has {gpus} GPU(s); take at most {gpus}"
        )
    cores = torch.multiprocessing.cpu_count()
    if not on_gpu and count > cores:
        raise UserError(
            f"trainer.devices={count}, but this machine has {cores} CPU cores (and {gpus} GPUs); "
            f"take at most {cores}"
        )
    precision = trainer.precision or ("bf16-mixed" if on_gpu else "32-true")
    return Devices("gpu" if on_gpu else "cpu", count, str(precision))
