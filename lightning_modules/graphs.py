"""Forward and backward pass as one CUDA graph.

A small model's kernels take longer to launch than to run; a recorded round is launched as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

Losses = Callable[[Tensor, Tensor, Mapping[str, "float | Tensor"]], dict[str, Tensor]]
"""`losses(tokens, targets, weights)`; "loss/total" is what the backward pass starts from."""

WARMUP_ROUNDS = 3
"""Rounds that run step by step first: libraries, compilers and allocators settle in them."""


class GraphedBackward:
    """Loss terms and gradients of a batch; replayed from a recording after the first rounds.

    A replay overwrites gradients, so nothing is to be zeroed before it. Weights of losses are
    tensors that a replay reads, so they may change from round to round; so may any buffer that is
    written in place. Dropout draws from the seed that is set before each replay.

    Args:
        losses: What is recorded. It must not make the host wait for the device, nor depend on
            values by shape or branch.
        parameters: All that `losses` may give a gradient to.
    """

    def __init__(self, losses: Losses, parameters: Iterable[nn.Parameter]) -> None:
        self.losses = losses
        self.parameters = list(parameters)
        self._stream = torch.cuda.Stream()
        self._rounds = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._weights: dict[str, Tensor] = {}

    def __call__(
        self, tokens: Tensor, targets: Tensor, weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Loss terms; the gradients of "loss/total" are in the parameters' `.grad`."""
        if not self._weights:
            self._weights = {name: tokens.new_empty((), dtype=torch.float32) for name in weights}
        for name, weight in weights.items():
            self._weights[name].fill_(weight)
        if self._graph is None and self._rounds >= WARMUP_ROUNDS:
            self._record(tokens, targets)
        self._rounds += 1
        if self._graph is None or tokens.shape != self._tokens.shape:
            return self._step_by_step(tokens, targets)
        self._tokens.copy_(tokens)
        self._targets.copy_(targets)
        self._graph.replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return self._terms

    def _step_by_step(self, tokens: Tensor, targets: Tensor) -> dict[str, Tensor]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            terms = self._round(tokens, targets)
        torch.cuda.current_stream().wait_stream(self._stream)
        return terms

    def _record(self, tokens: Tensor, targets: Tensor) -> None:
        self._tokens, self._targets = tokens.clone(), targets.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._terms = self._round(self._tokens, self._targets)
        self._graph = graph
        self._gradients = [(p, p.grad) for p in self.parameters if p.grad is not None]

    def _round(self, tokens: Tensor, targets: Tensor) -> dict[str, Tensor]:
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
