"""Muon for matrices and AdamW for the rest, as one optimizer.

Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by
the nearest matrix whose singular values are about equal, times sqrt(max(1, rows / columns)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

Group = dict[str, Any]
OWN_SETTINGS = {"lr", "weight_decay"}


class MuonAdamW(Optimizer):
    """Each parameter belongs to one of torch's two optimizers; groups and state are held here.

    Muon takes every two-dimensional parameter (embeddings too), unless it comes in a group with a
    rate or a decay of its own, as codes and vectors do: those, and tensors of any other shape, are
    AdamW's. Groups of Muon come first.

    A round that diverges is skipped by not calling `step`: Muon reads no flag on the device.

    Args:
        params: Parameters, or groups of them.
        lr: Rate of Muon; of a matrix's singular values in one round.
        adam_lr: Rate of AdamW.
        weight_decay: Of groups that do not say.
        momentum: Of Muon, with Nesterov's look ahead.
        ns_steps: Newton-Schulz iterations.
        betas: Of AdamW.
        eps: Of AdamW.
        fused: Of AdamW.

    Raises:
        ValueError: If there are no parameters, or a number is out of range.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[Group],
        lr: float,
        adam_lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        ns_steps: int = 5,
        betas: Sequence[float] = (0.9, 0.95),
        eps: float = 1e-8,
        fused: bool = True,
    ) -> None:
        matrices, rest = _divided(params)
        parts: list[Optimizer] = []
        if matrices:
            options = {"momentum": momentum, "nesterov": True, "ns_steps": ns_steps}
            parts.append(torch.optim.Muon(matrices, lr, weight_decay, **options))
        if rest:
            pair = (betas[0], betas[1])
            parts.append(torch.optim.AdamW(rest, adam_lr, pair, eps, weight_decay, fused=fused))
        self._parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # a loaded state brings groups of its own
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def _share(self) -> None:
        """Both optimizers work on the groups and the state of this one."""
        groups = iter(self.param_groups)
        for part in self._parts:
            part.state = self.state
            part.param_groups = [next(groups) for _ in part.param_groups]


def _divided(
    params: Iterable[nn.Parameter] | Iterable[Group],
) -> tuple[list[Group], list[Group]]:
    """Groups for Muon and for AdamW."""
    given: list[Any] = list(params)
    groups: list[Group] = given if given and isinstance(given[0], dict) else [{"params": given}]
    matrices: list[Group] = []
    rest: list[Group] = []
    for group in groups:
        fits = [p.ndim == 2 and not OWN_SETTINGS & set(group) for p in group["params"]]
        for part, wanted in ((matrices, True), (rest, False)):
            chosen = [p for p, fit in zip(group["params"], fits, strict=True) if fit is wanted]
            if chosen:
                part.append({**group, "params": chosen})
    return matrices, rest
