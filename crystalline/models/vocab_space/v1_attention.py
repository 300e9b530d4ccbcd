"""v1: one softmax attention that every step uses, and Fourier channels of its own (spec 3.1)."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.layers.attention import KeyValueCache, attend
from crystalline.layers.rotary import Rotary
from crystalline.models.vocab_space.blocks import Block, Residual, Shared, State, Step, rms
from crystalline.models.vocab_space.fourier import Basis, FourierOp, fourier_basis
from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.readable import WordMap, matrix_of
from crystalline.models.vocab_space.switches import resolve


class GroupedQueryAttention(Block):
    """Causal attention whose heads share keys and values in groups; its output map starts at zero.

    Queries and keys have root mean square 1 before they are turned (`Rotary`), and each head then
    multiplies its queries by a learned gain.

    Args:
        vocab_size: V, a multiple of twice `num_heads`.
        context_length: Longest sequence in tokens.
        num_heads: H, of queries; a multiple of `num_kv_heads`.
        num_kv_heads: Of keys and values.
        rope_theta: Of the rotary positions; their tables are fp32 in both modes.
        query_gain: Of every head at the start.

    Raises:
        ValueError: If the counts of heads do not divide.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_heads: int,
        num_kv_heads: int,
        rope_theta: float,
        query_gain: float,
    ) -> None:
        super().__init__()
        if vocab_size % (2 * num_heads):
            raise ValueError(
                f"twice model.num_heads must divide the vocabulary of {vocab_size}, got {num_heads}"
            )
        if num_heads % num_kv_heads:
            raise ValueError(
                "model.num_kv_heads must divide model.num_heads, "
                f"got {num_kv_heads} and {num_heads}"
            )
        self.context_length = context_length
        self.d_head = vocab_size // num_heads
        d_shared = num_kv_heads * self.d_head
        self.query = nn.Linear(vocab_size, vocab_size, bias=False)
        self.key = nn.Linear(vocab_size, d_shared, bias=False)
        self.value = nn.Linear(vocab_size, d_shared, bias=False)
        self.out = nn.Linear(vocab_size, vocab_size, bias=False)
        nn.init.zeros_(self.out.weight)
        self.query_gain = nn.Parameter(torch.full((num_heads,), float(query_gain)))
        self.rotary = Rotary(self.d_head, context_length, rope_theta)

    def forward(self, x: State, cache: KeyValueCache | None = None) -> State:
        start = 0 if cache is None else cache.length
        q = self.rotary(rms(self._heads(self.query(x))), start)
        k = self.rotary(rms(self._heads(self.key(x))), start)
        v = self._heads(self.value(x))
        q = (self.query_gain[:, None, None] * q).type_as(k)
        if cache is not None:
            k, v = cache.append(k, v)
        read = attend(q, k, v, start)
        return self.out(rearrange(read, "batch head pos d -> batch pos (head d)"))

    def _heads(self, x: Tensor) -> Float[Tensor, "batch head pos d_head"]:
        return rearrange(x, "batch pos (head d) -> batch head pos d", d=self.d_head)

    def init_cache(self, batch: int) -> KeyValueCache:
        num_kv_heads = self.key.out_features // self.d_head
        like = self.key.weight
        return KeyValueCache(batch, num_kv_heads, self.context_length, self.d_head, like)

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        """Of each head: scores of words by themselves, at distance 0, and what a word writes.

        A position sees itself, so what a word writes may stand right after it.
        """
        like = self.out.weight
        q, k, v = (
            self._heads(matrix_of(map, vocab_size, like)[None])[0]
            for map in (self.query, self.key, self.value)
        )
        q = self.query_gain[:, None, None] * rms(q) * self.d_head**-0.5
        out = rearrange(like, "to (head d) -> head d to", d=self.d_head)
        share = len(q) // len(k)
        found: dict[str, WordMap] = {}
        for head in range(len(q)):
            shared = head // share
            found[f"head.{head}.look"] = WordMap(q[head], rms(k[shared]).T, gap=-1)
            found[f"head.{head}.write"] = WordMap(v[shared], out[head], gap=1)
        return found


class Attention(VocabSpace):
    """x + a * the one attention, then x + b * FourierOp, N times; gains a and b are one a word.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_steps: N.
        num_heads: Of queries.
        num_kv_heads: Of keys and values.
        rope_theta: Longest wavelength of the rotary positions over 2 pi.
        query_gain: Of every head at the start.
        channels: C.
        harmonics: K.
        activation: gelu, relu, relu2 or silu.
        mode: "faithful" or "repaired".
        fourier_read: Switch; None: as the mode says.
        basis: Switch.
        options: Of `VocabSpace`.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_steps: int = 8,
        num_heads: int = 8,
        num_kv_heads: int = 4,
        rope_theta: float = 10_000.0,
        query_gain: float = 1.5,
        channels: int = 128,
        harmonics: int = 16,
        activation: str = "gelu",
        mode: str = "repaired",
        fourier_read: str | None = None,
        basis: str | None = None,
        **options: Any,
    ) -> None:
        switches = resolve(mode, fourier_read=fourier_read, basis=basis)
        phi = Basis(fourier_basis(vocab_size, harmonics), switches.basis)
        attention = GroupedQueryAttention(
            vocab_size, context_length, num_heads, num_kv_heads, rope_theta, query_gain
        )

        def step() -> Step:
            within = FourierOp(phi, channels, switches.fourier_read, activation)
            return Step(Residual(Shared(attention), vocab_size), Residual(within, vocab_size))

        steps = [step() for _ in range(num_steps)]
        super().__init__(vocab_size, context_length, steps, mode=mode, **options)
        self.attention, self.basis = attention, phi
