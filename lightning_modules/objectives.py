"""Who is trained by which optimizer, and how gradients are accumulated and clipped."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from crystalline.contract import LanguageModel
from lightning_modules.schedules import Schedule

log = logging.getLogger(__name__)

BuildOptimizer = Callable[..., Optimizer]
"""`build(groups)`; rate and decay of groups that do not name them are the optimizer's own."""


class Objective(ABC):
    """One round of learning: cross-entropy plus the model's weighted auxiliary losses.

    Args:
        accumulate: Micro-batches a round is cut into; the result does not depend on it.
        clip: Largest global gradient norm of an optimizer's parameters; null for no limit.
        schedule: Learning rate over the rounds, for every optimizer.

    Raises:
        ValueError: If `accumulate` is below 1 or `clip` is not positive.
    """

    def __init__(self, accumulate: int, clip: float | None, schedule: Schedule) -> None:
        if accumulate < 1:
            raise ValueError(f"objective.accumulate must be at least 1, got {accumulate}")
        if clip is not None and clip <= 0:
            raise ValueError(f"objective.clip must be positive or null, got {clip}")
        self.accumulate = accumulate
        self.clip = clip
        self.schedule = schedule

    @abstractmethod
    def optimizers(self, model: LanguageModel, build: BuildOptimizer) -> dict[str, Optimizer]:
        """Optimizers by name, "main" first; together they own every trainable parameter once."""

    def clip_gradients(self, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        """Limit each optimizer's gradient norm; the norms before that, by name."""
        return {name: clip_norm(_owned(opt), self.clip) for name, opt in optimizers.items()}


class Single(Objective):
    """One optimizer with one rate for everything, codes included."""

    def optimizers(self, model: LanguageModel, build: BuildOptimizer) -> dict[str, Optimizer]:
        codes = {id(parameter) for _, parameter in model.codebook_parameters()}
        return {"main": build(decay_groups(model.parameters(), exempt=codes))}


class Dual(Objective):
    """Codebooks | all else, each with its own optimizer, rate, decay and clip.

    The quantizers decide which loss reaches the codes; where that is the codebook loss alone, one
    backward pass of the sum equals one a loss. Without trainable codes there is one optimizer.

    Args:
        accumulate: See `Objective`.
        clip: Limit for everything but the codes.
        schedule: See `Objective`.
        codebook_lr: Rate of the codes.
        codebook_weight_decay: Decay of the codes.
        codebook_clip: Limit for the codes.
        joint_clip: One norm over both instead, limited by `clip`, as the published Ziggurat does.
    """

    def __init__(
        self,
        accumulate: int,
        clip: float | None,
        schedule: Schedule,
        codebook_lr: float,
        codebook_weight_decay: float,
        codebook_clip: float | None,
        joint_clip: bool,
    ) -> None:
        super().__init__(accumulate, clip, schedule)
        self.codebook_lr = codebook_lr
        self.codebook_weight_decay = codebook_weight_decay
        self.codebook_clip = codebook_clip
        self.joint_clip = joint_clip

    def optimizers(self, model: LanguageModel, build: BuildOptimizer) -> dict[str, Optimizer]:
        codes = [parameter for _, parameter in model.codebook_parameters()]
        owned = {id(parameter) for parameter in codes}
        rest = [parameter for parameter in model.parameters() if id(parameter) not in owned]
        optimizers = {"main": build(decay_groups(rest))}
        if codes:
            own = {"lr": self.codebook_lr, "weight_decay": self.codebook_weight_decay}
            optimizers["codes"] = build([{"params": codes, **own}])
        else:
            log.info("objective=dual: no codes to train by gradient, so there is one optimizer")
        return optimizers

    def clip_gradients(self, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        if self.joint_clip:
            every = [parameter for opt in optimizers.values() for parameter in _owned(opt)]
            return {"main": clip_norm(every, self.clip)}
        limits = {"main": self.clip, "codes": self.codebook_clip}
        return {name: clip_norm(_owned(opt), limits[name]) for name, opt in optimizers.items()}


def decay_groups(
    parameters: Iterable[nn.Parameter],
    exempt: set[int] = frozenset(),  # type: ignore[assignment]
) -> list[dict[str, Any]]:
    """Matrices decay; vectors and scalars (norms, biases, gates) and `exempt` ids do not."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    decayed = [p for p in trainable if p.ndim >= 2 and id(p) not in exempt]
    rest = [p for p in trainable if p.ndim < 2 or id(p) in exempt]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def clip_norm(parameters: list[nn.Parameter], limit: float | None) -> Tensor:
    """Global gradient norm, after which gradients are scaled down to `limit`; no host sync."""
    return nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else limit)


def step(optimizer: Optimizer, skip: Tensor, take: Callable[[], object]) -> None:
    """Call `take()`, which steps `optimizer`, unless the flag `skip` is set.

    Fused optimizers read the flag on the device; others make the host wait for it.
    """
    if optimizer.defaults.get("fused"):
        optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        take()
    elif not bool(skip):
        take()


def _owned(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
