"""Which keys a query may see: one algebra of predicates for every attention kernel.

A predicate has the signature that FlexAttention asks for (and is a lambda, since it counts the
arguments, which annotations that are executed would hide), so the same one makes the dense mask of
`scaled_dot_product_attention` and the block mask of a fused kernel. True means visible.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, reduce
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Predicate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`predicate(batch, head, query, key)`: whether the key is visible, for int64 indices that
broadcast against each other."""

Positions = Int[Tensor, "batch query"]
"""Where each query stands among the keys."""


def causal(at: Positions | None = None) -> Predicate:
    """Keys up to the query's own position (`at`, or its index)."""
    if at is None:
        return lambda b, h, q, k: k <= q
    return lambda b, h, q, k: k <= at[b, q]


def sliding_window(radius: int, at: Positions | None = None) -> Predicate:
    """The query's own position and the `radius` keys before it."""
    if at is None:
        return lambda b, h, q, k: (k <= q) & (q - k <= radius)
    return lambda b, h, q, k: (k <= at[b, q]) & (at[b, q] - k <= radius)


def same(
    queries: Int[Tensor, "batch query"], keys: Int[Tensor, "batch key"] | None = None
) -> Predicate:
    """Keys with the query's label: a segment, a document."""
    known = queries if keys is None else keys
    return lambda b, h, q, k: queries[b, q] == known[b, k]


def between(
    first: Int[Tensor, "batch query"], last: Int[Tensor, "batch query"], offset: int = 0
) -> Predicate:
    """Keys `offset + first` to `offset + last`, both included."""
    return lambda b, h, q, k: (k - offset >= first[b, q]) & (k - offset <= last[b, q])


def all_of(*predicates: Predicate) -> Predicate:
    """Keys that every predicate lets be seen."""
    return reduce(_both, predicates)


def any_of(*predicates: Predicate) -> Predicate:
    """Keys that some predicate lets be seen."""
    return reduce(_either, predicates)


def _both(one: Predicate, other: Predicate) -> Predicate:
    return lambda b, h, q, k: one(b, h, q, k) & other(b, h, q, k)


def _either(one: Predicate, other: Predicate) -> Predicate:
    return lambda b, h, q, k: one(b, h, q, k) | other(b, h, q, k)


class Mask:
    """A predicate over a stated number of queries and keys, in the form that a kernel wants.

    Args:
        predicate: Who sees whom.
        batch: Sequences; 1 where all of them have the same mask.
        queries: Queries a sequence.
        keys: Keys a sequence.
        device: Where the mask is wanted.
        complete: Whether every query sees some key, as in all self-attention. Where it does not,
            attention answers with 0.
    """

    def __init__(
        self,
        predicate: Predicate,
        batch: int,
        queries: int,
        keys: int,
        device: torch.device,
        *,
        complete: bool = True,
    ) -> None:
        self.predicate = predicate
        self.batch = batch
        self.queries = queries
        self.keys = keys
        self.device = device
        self.complete = complete

    @cached_property
    def dense(self) -> Bool[Tensor, "batch 1 query key"]:
        """The whole mask: its definition."""
        b = torch.arange(self.batch, device=self.device)[:, None, None, None]
        q = torch.arange(self.queries, device=self.device)[:, None]
        k = torch.arange(self.keys, device=self.device)
        return self.predicate(b, torch.zeros_like(b), q, k).expand(
            self.batch, 1, self.queries, self.keys
        )

    @cached_property
    def seeing(self) -> Bool[Tensor, "batch 1 query 1"]:
        """Which queries see anything."""
        return self.dense.any(-1, keepdim=True)

    @cached_property
    def answerable(self) -> Bool[Tensor, "batch 1 query key"]:
        """`dense`, but queries that see nothing see all, so that no softmax is empty."""
        return self.dense if self.complete else self.dense | ~self.seeing

    @cached_property
    def blocks(self) -> Any:
        """The mask in blocks, for FlexAttention.

        A kernel visits blocks that are wholly visible before the others. A later token can make a
        block partly visible, and another order of sums is another last bit of the past, so every
        block is treated as partly visible: they are visited from left to right.
        """
        from torch.nn.attention.flex_attention import BlockMask, create_block_mask

        device = str(self.device)
        found = create_block_mask(
            self.predicate, self.batch, None, self.queries, self.keys, device=device
        )
        visited = found.to_dense().bool()
        order = visited.int().argsort(dim=-1, descending=True, stable=True).to(torch.int32)
        return BlockMask.from_kv_blocks(
            visited.sum(-1, dtype=torch.int32),
            order.contiguous(),
            BLOCK_SIZE=found.BLOCK_SIZE,
            mask_mod=self.predicate,
            seq_lengths=(self.queries, self.keys),
        )
