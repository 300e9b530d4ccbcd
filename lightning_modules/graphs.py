"""Work on a GPU as a CUDA graph.

A small model's kernels take longer to launch than to run; recorded work is launched as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Losses = Callable[[Tensor, Tensor, Mapping[str, "float | Tensor"]], dict[str, Tensor]]
"""`losses(tokens, targets, weights)`; "loss/total" is what the backward pass starts from."""
T = TypeVar("T")

WARMUP_CALLS = 3
"""Calls that run step by step first: libraries, compilers and allocators settle in them."""


class Recording(Generic[T]):
    """Calls `work`, and replays it from a recording after the first calls.

    What `work` returns is overwritten by the next replay. It reads and writes tensors in place that
    it does not get as arguments where they are, so those must stay there.

    Args:
        work: What is recorded, of tensors. It must not make the host wait for the device, nor
            depend on values by shape or branch.
        generators: Of the device; those that `work` draws from, but for the device's own.
    """

    def __init__(self, work: Callable[..., T], generators: Iterable[torch.Generator] = ()) -> None:
        self.work = work
        self.generators = list(generators)
        self.replayed = False
        """Whether the last call was a replay."""
        self._stream = torch.cuda.Stream()
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> T:
        if self._graph is None and self._calls >= WARMUP_CALLS:
            self._record(inputs)
        self._calls += 1
        self.replayed = self._graph is not None and all(
            given.shape == kept.shape for given, kept in zip(inputs, self._inputs, strict=True)
        )
        if self._graph is None or not self.replayed:
            return self._step_by_step(inputs)
        for given, kept in zip(inputs, self._inputs, strict=True):
            kept.copy_(given)
        self._graph.replay()
        return self._result

    def _step_by_step(self, inputs: tuple[Tensor, ...]) -> T:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = self.work(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = [given.clone() for given in inputs]
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._result = self.work(*self._inputs)
        self._graph = graph


class GraphedBackward:
    """Loss terms and gradients of a batch; replayed from a recording after the first rounds.

    A replay overwrites gradients, so nothing is to be zeroed before it. Weights of losses are
    tensors that a replay reads, so they may change from round to round; so may any buffer that is
    written in place. Dropout draws from the seed that is set before each replay.

    Args:
        losses: What is recorded; see `Recording`.
        parameters: All that `losses` may give a gradient to.
    """

    def __init__(self, losses: Losses, parameters: Iterable[nn.Parameter]) -> None:
        self.losses = losses
        self.parameters = list(parameters)
        self._round = Recording(self._forward_and_backward)
        self._gradients: list[tuple[nn.Parameter, Tensor]] = []
        self._weights: dict[str, Tensor] = {}

    def __call__(
        self, tokens: Tensor, targets: Tensor, weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Loss terms; the gradients of "loss/total" are in the parameters' `.grad`."""
        if not self._weights:
            self._weights = {name: tokens.new_empty((), dtype=torch.float32) for name in weights}
        for name, weight in weights.items():
            self._weights[name].fill_(weight)
        terms = self._round(tokens, targets)
        if self._round.replayed:
            if not self._gradients:  # those that recording has left
                every = self.parameters
                self._gradients = [(p, p.grad) for p in every if p.grad is not None]
            for parameter, gradient in self._gradients:
                parameter.grad = gradient
        return terms

    def _forward_and_backward(self, tokens: Tensor, targets: Tensor) -> dict[str, Tensor]:
        for parameter in self.parameters:
            parameter.grad = None
        # Cast weights that autocast keeps from one pass to the next would never be cast again.
        with torch.autocast(
            "cuda",
            dtype=torch.get_autocast_dtype("cuda"),
            enabled=torch.is_autocast_enabled("cuda"),
            cache_enabled=False,
        ):
            terms = self.losses(tokens, targets, self._weights)
        terms["loss/total"].backward()
        return {name: value.detach() for name, value in terms.items()}
