"""v14: taps and decays that each position sets by itself (spec 3.14)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.layers.selective_attention import cumulative, per_key
from crystalline.models.vocab_space.blocks import (
    GAIN,
    Added,
    DecayMemory,
    Fading,
    Residual,
    State,
    linear,
    rms,
)
from crystalline.models.vocab_space.fourier import Basis, FourierOp, cosine_basis
from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.readable import Readable, WordMap, prefixed
from crystalline.models.vocab_space.slices import Slice, slice_pairs
from crystalline.models.vocab_space.switches import resolve
from crystalline.models.vocab_space.v2_conv import Recent, Taps


class GatedTaps(Taps):
    """`Taps` whose strength a position sets, by gates sigmoid(Gamma x_t)_i, halves at the start.

    Args:
        vocab_size: V.
        kernel: Positions that a word looks back on, the current one among them.
        how: Switch `tap_gate`: "scalar" multiplies the whole result with the mean of the gates,
            "per_tap" each tap with its own.
    """

    def __init__(self, vocab_size: int, kernel: int, how: str) -> None:
        super().__init__(vocab_size, kernel)
        self.gates = linear(vocab_size, kernel, std=0.0)
        self.how = how

    def filtered(
        self,
        x: State,
        cache: Recent | None,
        scale: Tensor | None = None,
        gates: Float[Tensor, "batch pos kernel"] | None = None,
    ) -> State:
        own = self.gates(x).sigmoid()
        if self.how == "per_tap":
            return super().filtered(x, cache, scale, own.to(x.dtype))
        return super().filtered(x, cache, scale) * own.mean(-1, keepdim=True)


@dataclass
class Kept:
    """What `SelectiveMemory` carries over where every key fades at its own rate: all of them."""

    keys: Float[Tensor, "batch seen d"]
    values: Float[Tensor, "batch seen d"]
    log_decay: Float[Tensor, "batch seen"]

    def append(self, k: Tensor, u: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.keys = torch.cat([self.keys, k.to(self.keys.dtype)], 1)
        self.values = torch.cat([self.values, u.to(self.values.dtype)], 1)
        self.log_decay = torch.cat([self.log_decay, log_decay], 1)
        return self.keys.to(k.dtype), self.values.to(u.dtype), self.log_decay


class SelectiveMemory(DecayMemory):
    """Linear attention with decays sigmoid(w . x_s + b), w = 0 at the start.

    Args:
        width: k, of the state and of queries, keys and values.
        scale: Switch `score_scale`, without "normalized"; "none" is 1 / sqrt(k) here.
        how: Switch `key_decay`; see `layers.selective_attention`.

    Raises:
        ValueError: If the scale is "normalized": weights have no sum that is known beforehand.
    """

    def __init__(self, width: int, scale: str, how: str) -> None:
        if scale == "normalized":
            raise ValueError(
                "model.score_scale must be none or inv_dim or cosine where decays depend on the "
                f"state, got {scale!r}"
            )
        super().__init__(
            linear(width, width), linear(width, width), linear(width, width), linear(width, width),
            d_key=width, d_value=width, scale=scale, factor=1 / math.sqrt(width),
        )  # fmt: skip
        self.decay_weight = nn.Parameter(torch.zeros(width))
        self.how = how

    def recall(
        self, x: State, cache: Any = None, shift: Tensor | float = 0.0
    ) -> Float[Tensor, "batch pos d_value"]:
        q, k, u = self.scaled(x)
        log_decay = self.log_decay(x, shift)
        if self.how == "cumulative":
            read, memory = cumulative(q, k, u, log_decay, None if cache is None else cache.memory)
            if cache is not None:
                cache.memory = memory
            return read
        if cache is None:
            return per_key(q, k, u, log_decay)
        k, u, log_decay = cache.append(k, u, log_decay)
        return per_key(q, k, u, log_decay, start=k.shape[1] - q.shape[1])

    def log_decay(self, x: State, shift: Tensor | float = 0.0) -> Float[Tensor, "batch pos"]:
        """Of each position, fp32."""
        with torch.autocast(x.device.type, enabled=False):
            return F.logsigmoid(x.float() @ self.decay_weight + self.decay_logit + shift)

    def init_cache(self, batch: int) -> Any:
        new = self.gain.new_zeros
        if self.how == "cumulative":
            return Fading(new(batch, self.d_key, self.d_value))
        return Kept(new(batch, 0, self.d_key), new(batch, 0, self.d_value), new(batch, 0))

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        return {}  # its words are those of a slice


class AdaptiveStep(Readable):
    """Taps, a slice that remembers, Fourier channels; then what the slice remembered is written.

        x = x + c taps(rms x);  g = x[read];  g = g + a memory(rms g);  x = x + op(rms x)
        x[write] = x[write] + eta / sqrt(k) rms g

    Args:
        taps: Of all words.
        memory: Of the k words read.
        op: Within a position.
        reads: Of k words.
        writes: Of k words.
    """

    def __init__(
        self, taps: GatedTaps, memory: SelectiveMemory, op: FourierOp, reads: Slice, writes: Slice
    ) -> None:
        super().__init__()
        self.taps = Residual(taps, taps.gates.in_features)
        self.memory = Residual(memory)
        self.op = Added(op)
        self.reads, self.writes = reads, writes
        self.gain = nn.Parameter(torch.tensor(GAIN))
        self.unit = 1 / math.sqrt(memory.d_key)

    def forward(self, x: State, cache: Any = None) -> State:
        recent, kept = (None, None) if cache is None else cache
        x = self.taps(x, recent)
        g = self.memory(self.reads.read(x), kept)
        return self.writes.add(self.op(x), self.gain * self.unit * rms(g.float()))

    def init_cache(self, batch: int) -> tuple[Any, Any]:
        return self.taps.init_cache(batch), self.memory.init_cache(batch)

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        taps, op = self.taps.word_maps(vocab_size), self.op.word_maps(vocab_size)
        return prefixed("taps", taps) | prefixed("op", op)


class Adaptive(VocabSpace):
    """N of `AdaptiveStep`.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_steps: N.
        kernel: Taps a step, at least 1.
        channels: C of the op.
        harmonics: K, cosines of its basis.
        slice_width: k, words that a step reads, and that it writes.
        activation: gelu, relu, relu2 or silu.
        mode: "faithful" or "repaired".
        fourier_read: Switch; None: as the mode says, here and below.
        basis: Switch.
        score_scale: Switch; as published, 1 / sqrt(k).
        tap_gate: Switch.
        key_decay: Switch.
        addressing: Switch.
        slice_seed: Of permuted addresses.
        options: Of `VocabSpace`.

    Raises:
        ValueError: If `kernel` is less than 1.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_steps: int = 8,
        kernel: int = 16,
        channels: int = 128,
        harmonics: int = 16,
        slice_width: int = 256,
        activation: str = "gelu",
        mode: str = "repaired",
        fourier_read: str | None = None,
        basis: str | None = None,
        score_scale: str | None = None,
        tap_gate: str | None = None,
        key_decay: str | None = None,
        addressing: str | None = None,
        slice_seed: int = 0,
        **options: Any,
    ) -> None:
        if kernel < 1:
            raise ValueError(f"model.kernel must be at least 1, got {kernel}")
        switches = resolve(
            mode, fourier_read=fourier_read, basis=basis, score_scale=score_scale,
            tap_gate=tap_gate, key_decay=key_decay, addressing=addressing,
        )  # fmt: skip
        phi = Basis(cosine_basis(vocab_size, harmonics), switches.basis)
        pairs = slice_pairs(vocab_size, num_steps, slice_width, switches.addressing, slice_seed)
        steps = [
            AdaptiveStep(
                GatedTaps(vocab_size, kernel, switches.tap_gate),
                SelectiveMemory(slice_width, switches.score_scale, switches.key_decay),
                FourierOp(phi, channels, switches.fourier_read, activation),
                *pair,
            )
            for pair in pairs
        ]
        super().__init__(vocab_size, context_length, steps, mode=mode, **options)
        self.basis = phi
