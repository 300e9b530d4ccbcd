"""v11a: five updates in a row; its memories share their maps with all steps (spec 3.11a)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.layers.decay_attention import log_sigmoid
from crystalline.layers.fading_sum import fading_sum
from crystalline.models.vocab_space.blocks import (
    GAIN,
    Added,
    Block,
    Bottleneck,
    DecayMemory,
    Fading,
    Shared,
    State,
    Step,
    linear,
)
from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.readable import WordMap, diagonal_map
from crystalline.models.vocab_space.switches import resolve


def published_sum(x: State, log_decay: Float[Tensor, " vocab"]) -> State:
    """Sum over s < t of decay**(t - s) x_s as it was published, with its errors.

    Sums of decay**(T - 1 - s) x_s are divided by decay**(T - 1 - t), but by 1e-8 at least: where
    that bound holds, 18.4 horizons before the end of the T positions, far too little comes out. The
    positions are in bf16, which rounds those above 256.
    """
    last = x.shape[1] - 1
    until = last - torch.arange(x.shape[1], device=x.device, dtype=torch.bfloat16)
    weight = (until[:, None] * log_decay).exp()
    weighted = x.float() * weight
    return (weighted.cumsum(1) - weighted) / weight.clamp(min=1e-8)


class DecayedSum(Block):
    """gain * sum over s < t of decay_v**(t - s) x_s[v]: how much was said of each word lately.

    Args:
        vocab_size: V.
        how: Switch `decayed_sum`: "mean" divides the sum by its horizon, 1 / (1 - decay_v);
            "published" does not, and is `published_sum` unless a cache goes from call to call.
    """

    def __init__(self, vocab_size: int, how: str) -> None:
        super().__init__()
        self.decay_logit = nn.Parameter(torch.full((vocab_size,), 4.0))
        self.gain = nn.Parameter(torch.tensor(GAIN))
        self.how = how

    def forward(self, x: State, cache: Fading | None = None) -> State:
        log_decay = log_sigmoid(self.decay_logit)
        if self.how == "published" and cache is None:
            return self.gain * published_sum(x, log_decay)
        read, memory = fading_sum(x, log_decay, None if cache is None else cache.memory)
        if cache is not None and memory is not None:
            cache.memory = memory
        return self.gain * self.weight() * read

    def weight(self) -> Float[Tensor, " vocab"]:
        """Of the position before in what is read."""
        log_decay = log_sigmoid(self.decay_logit)
        return log_decay.exp() * (-torch.expm1(log_decay) if self.how == "mean" else 1.0)

    def init_cache(self, batch: int) -> Fading:
        return Fading(self.decay_logit.new_zeros(batch, len(self.decay_logit)))

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        return {"write": diagonal_map(self.gain * self.weight(), gap=2)}


class WordGate(Block):
    """up(down(x)) + b, of gates that start open: b = 2.

    Args:
        vocab_size: V.
        hidden: Width g between the maps.
    """

    def __init__(self, vocab_size: int, hidden: int) -> None:
        super().__init__()
        self.down = linear(vocab_size, hidden)
        self.up = linear(hidden, vocab_size, bias=True, std=0.01)
        nn.init.constant_(self.up.bias, 2.0)

    def forward(self, x: State, cache: Any = None) -> State:
        return self.up(self.down(x))


class Gated(Added):
    """x * sigmoid(block(x)), of the state as it is: all of it shrinks, the first word included."""

    def update(self, x: State, cache: Any = None) -> State:
        return (torch.sigmoid(self.block(x.float(), cache)) - 1) * x.float()


class Brainwave(VocabSpace):
    """Decayed sum, long memory, gate, MLP, short memory: one after the other, N times.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_steps: N.
        d_state: Width d of the maps that all memories share.
        d_gate: Width g of the gates' maps.
        d_mlp: Width m of the MLPs' hidden layer.
        mode: "faithful" or "repaired".
        score_scale: Switch; None: as the mode says.
        decayed_sum: Switch, likewise.
        options: Of `VocabSpace`.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_steps: int = 8,
        d_state: int = 64,
        d_gate: int = 64,
        d_mlp: int = 128,
        mode: str = "repaired",
        score_scale: str | None = None,
        decayed_sum: str | None = None,
        **options: Any,
    ) -> None:
        switches = resolve(mode, score_scale=score_scale, decayed_sum=decayed_sum)
        maps = [linear(vocab_size, d_state) for _ in range(3)] + [linear(d_state, vocab_size)]

        def memory(decay_logit: float) -> DecayMemory:
            return DecayMemory(
                *(Shared(part) for part in maps), d_key=d_state, d_value=d_state,
                scale=switches.score_scale, decay_logit=decay_logit,
            )  # fmt: skip

        def step() -> Step:
            return Step(
                Added(DecayedSum(vocab_size, switches.decayed_sum)),
                Added(memory(4.0)),
                Gated(WordGate(vocab_size, d_gate)),
                Added(Bottleneck(vocab_size, d_mlp)),
                Added(memory(1.0)),
            )

        steps = [step() for _ in range(num_steps)]
        super().__init__(vocab_size, context_length, steps, mode=mode, **options)
        self.queries, self.keys, self.values, self.output = maps
