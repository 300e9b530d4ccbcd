"""Losses that stop being numbers: noticed without waiting for the device, explained by a replay."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crystalline.errors import UserError
from crystalline.eval_mode import uncompiled


class Divergence(nn.Module):
    """Remembers, on the device, the first round whose gradients were not finite.

    From that round on every update is skipped, so the weights are still those that produced it
    when the host looks.
    """

    first_bad: Tensor
    """int64 scalar; -1 while all is well."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first_bad", torch.tensor(-1), persistent=False)

    def watch(self, step: int, norms: list[Tensor]) -> Tensor:
        """Note round `step`; a true tensor if its update and all later ones must be skipped."""
        finite = torch.isfinite(torch.stack([norm.detach().float() for norm in norms])).all()
        fresh = ~finite & (self.first_bad < 0)
        self.first_bad.copy_(torch.where(fresh, step, self.first_bad))
        return self.first_bad >= 0

    def read(self) -> int | None:
        """The first bad round, or None; waits for the device."""
        step = int(self.first_bad)
        return None if step < 0 else step


class TrainingDiverged(UserError):
    """The loss or a gradient became NaN or infinite."""


def first_non_finite(model: nn.Module, *args: object, **kwargs: object) -> str | None:
    """Name of the module whose output is the first not to be finite, or None."""
    found: list[str] = []
    hooks = []

    def check(name: str):
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            for tensor in tensors:
                if found or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                    continue
                if not bool(torch.isfinite(tensor).all()):
                    found.append(name)

        return hook

    for name, module in model.named_modules():
        if name:
            hooks.append(module.register_forward_hook(check(name)))
    try:
        with torch.no_grad(), uncompiled(model):
            model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
