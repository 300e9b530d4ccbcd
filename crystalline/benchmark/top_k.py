"""Top-k code selection beside the matrix of scores that one would write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.benchmark.case import Case
from crystalline.benchmark.timing import Contestant
from crystalline.quantizers.top_k import TopKCoding, code_plainly, top_k_coding


@dataclass(frozen=True)
class TopKCase(Case):
    """The k codes of largest cosine at every position, their mean, and the gradients of both.

    Args:
        points: n, positions.
        d_group: Width of a group.
        codebook_size: K, codes of each group's book.
        num_codes_k: k.
        groups: Books, each with its own part of every position.
        devices: Kinds of device it runs on when it is not named.

    Raises:
        ValueError: If a size is below 1 or k above K.
    """

    points: int
    d_group: int
    codebook_size: int
    num_codes_k: int
    groups: int
    devices: Sequence[str]

    baseline: ClassVar[str] = "matrix, topk, gather"
    packages: ClassVar[tuple[str, ...]] = ("triton",)

    def __post_init__(self) -> None:
        if min(self.points, self.d_group, self.codebook_size, self.num_codes_k, self.groups) < 1:
            raise ValueError("every size of a top-k case must be at least 1")
        if self.num_codes_k > self.codebook_size:
            raise ValueError(
                f"num_codes_k must be at most codebook_size, {self.codebook_size}, "
                f"got {self.num_codes_k}"
            )

    @property
    def title(self) -> str:
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        return (
            f"{self.num_codes_k} of {self.codebook_size:,} codes of width {self.d_group} at "
            f"{self.points:,} points{groups}, fp32"
        )

    def contestants(self, device: torch.device) -> dict[str, Contestant]:
        data = self._data(device)
        return {
            "crystalline": _call(data, self.num_codes_k, top_k_coding),
            "definition": _call(data, self.num_codes_k, code_plainly),
            self.baseline: _matrix(data, self.num_codes_k),
        }

    def reference(self, device: torch.device) -> Int[Tensor, "groups n k"]:
        """Indices by exact cosines, a few rows at a time."""
        data = self._data(device)
        queries, codes = (F.normalize(t.detach().double(), dim=-1) for t in data[:2])
        rows = max(1, (1 << 26) // (self.codebook_size * self.groups))
        parts = [
            (part @ codes.mT).topk(self.num_codes_k).indices for part in queries.split(rows, 1)
        ]
        return torch.cat(parts, 1)

    def _data(self, device: torch.device) -> _Data:
        generator = torch.Generator().manual_seed(0)
        queries = torch.randn(self.groups, self.points, self.d_group, generator=generator)
        codes = torch.randn(self.groups, self.codebook_size, self.d_group, generator=generator)
        upstream = torch.randn(queries.shape, generator=generator) / queries.numel()
        return _Data(
            queries.to(device).requires_grad_(), codes.to(device).requires_grad_(),
            upstream.to(device),
        )  # fmt: skip


class _Data(NamedTuple):
    queries: Float[Tensor, "groups n d"]
    codes: Float[Tensor, "groups codebook_size d"]
    upstream: Float[Tensor, "groups n d"]
    """Gradient of the loss in what leaves."""

    def pull_back(self, quantized: Tensor, logits: Tensor) -> None:
        """The backward pass; gradients are dropped, so that they count as memory of the call."""
        inputs = (self.queries, self.codes)
        torch.autograd.grad((quantized, logits.mean()), inputs, (self.upstream, None))  # type: ignore[arg-type]


def _call(data: _Data, k: int, coding_of: Callable[..., TopKCoding]) -> Contestant:
    def call() -> Tensor:
        coding = coding_of(data.queries, data.codes, k)
        data.pull_back(coding.quantized, coding.logits)
        return coding.indices

    return call


def _matrix(data: _Data, k: int) -> Contestant:
    groups = torch.arange(len(data.codes), device=data.codes.device)[:, None, None]

    def call() -> Tensor:
        scores = F.normalize(data.queries, dim=-1) @ F.normalize(data.codes, dim=-1).mT
        logits, indices = scores.topk(k)
        data.pull_back(data.codes[groups, indices].mean(-2), logits)
        return indices

    return call
