"""A model's forward and backward pass, launched one by one, replayed, compiled, and both."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from crystalline.benchmark.case import Case
from crystalline.benchmark.timing import Contestant, Recorded, UnavailableError
from crystalline.contract import LanguageModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepCase(Case):
    """Gradients of the loss, auxiliary losses included, in all parameters; bf16 on a GPU.

    Choices are the likeliest tokens after the last position. Repeated blocks share compiled code;
    compilation is not timed, the log says how long it took.

    Args:
        model: Builds the model.
        batch_size: Sequences, of as many tokens as the model's context holds.
        devices: Kinds of device it runs on when it is not named.

    Raises:
        ValueError: If there are no sequences.
    """

    model: Callable[[], LanguageModel]
    batch_size: int
    devices: Sequence[str]

    baseline: ClassVar[str] = "eager"
    packages: ClassVar[tuple[str, ...]] = ("triton",)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    @property
    def title(self) -> str:
        with torch.device("meta"):
            model = self.model()
        parameters = model.count_parameters()["parameters"]
        tokens = f"{self.batch_size} x {model.context_length:,} tokens"
        return f"{type(model).__name__}, {parameters:,} parameters, {tokens}"

    def contestants(self, device: torch.device) -> dict[str, Contestant]:
        if device.type != "cuda":
            return {self.baseline: self._step(device)}
        return {
            self.baseline: self._step(device),
            "CUDA graph": Recorded(self._step(device)),
            "compiled": _compiled(self._step(device)),
            "compiled, CUDA graph": Recorded(_compiled(self._step(device))),
        }

    def reference(self, device: torch.device) -> Int[Tensor, " batch"]:
        """By the model in fp32, without dropout."""
        step = self._step(device)
        with torch.no_grad():
            return step.model.eval()(step.tokens).logits[:, -1].argmax(-1)

    def _step(self, device: torch.device) -> Step:
        torch.manual_seed(0)
        model = self.model().to(device).train()
        shape = (self.batch_size, model.context_length)
        generator = torch.Generator().manual_seed(0)
        tokens, targets = (
            torch.randint(model.vocab_size, shape, generator=generator).to(device) for _ in range(2)
        )
        return Step(model, tokens, targets)


@dataclass(frozen=True)
class Step:
    """The work of one call."""

    model: LanguageModel
    tokens: Int[Tensor, "batch pos"]
    targets: Int[Tensor, "batch pos"]

    def __call__(self) -> Int[Tensor, " batch"]:
        kind = self.tokens.device.type
        weights = self.model.loss_weights(0.5)
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            output = self.model(self.tokens)
            loss = output.total(output.cross_entropy(self.targets).loss, weights)
        learned = [each for each in self.model.parameters() if each.requires_grad]
        torch.autograd.grad(loss, learned, allow_unused=True)
        return output.logits[:, -1].detach().argmax(-1)


def _compiled(step: Step) -> Contestant:
    ready = False

    def call() -> Tensor:
        nonlocal ready
        if ready:
            return step()
        began_s = time.perf_counter()
        for part in step.model.compiled_parts():
            part.compile(dynamic=False)
        try:
            answer = step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # the compiler's own
            raise UnavailableError(f"not compiled: {str(error).splitlines()[0][:100]}") from error
        torch.cuda.synchronize()
        log.info("compiled in %.0f s", time.perf_counter() - began_s)
        ready = True
        return answer

    return call
