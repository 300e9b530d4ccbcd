"""v11b: three timescales, an activation that each position chooses, and halting (spec 3.11b)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.models.vocab_space.blocks import (
    GAIN,
    Block,
    DecayMemory,
    Fading,
    Residual,
    State,
    Step,
    linear,
)
from crystalline.models.vocab_space.model import Trace, VocabCache, VocabSpace
from crystalline.models.vocab_space.op_bank import OPERATIONS, Selector
from crystalline.models.vocab_space.readable import Mixture, Readable, WordMap, matrix_of
from crystalline.models.vocab_space.switches import resolve

DECAY_LOGITS = (0.0, 3.0, 5.0)
"""Of the timescales, at the start."""
ROUTES = ("gelu", "relu", "silu", "tanh")
"""Activations to choose from."""


class Timescales(DecayMemory):
    """What one query finds in three memories of different decay, mixed as the position asks.

    Args:
        vocab_size: V.
        d_state: Width d of the query, and of each memory's keys and values.
        scale: Switch `score_scale`; "cosine" is of the keys of all memories together.
    """

    def __init__(self, vocab_size: int, d_state: int, scale: str) -> None:
        width = len(DECAY_LOGITS) * d_state
        super().__init__(
            linear(vocab_size, d_state), linear(vocab_size, width), linear(vocab_size, width),
            linear(d_state, vocab_size),
            d_key=width, d_value=width, scale=scale, decay_logit=DECAY_LOGITS,
        )  # fmt: skip
        self.mixture = linear(vocab_size, len(DECAY_LOGITS))

    def project(self, x: State) -> tuple[Tensor, Tensor, Tensor]:
        q, k, u = super().project(x)
        return q.repeat(1, 1, self.num_heads), k, u

    def recall(
        self, x: State, cache: Fading | None = None, shift: Tensor | float = 0.0
    ) -> Float[Tensor, "batch pos d_state"]:
        read = self.split(super().recall(x, cache, shift))
        shares = rearrange(self.shares(x), "batch pos scale -> batch scale pos 1")
        return (shares.to(read.dtype) * read).sum(1)

    def shares(self, x: State) -> Float[Tensor, "batch pos scale"]:
        """Of the timescales in what a position reads."""
        return self.mixture(x).softmax(-1)

    def outputs(self) -> Float[Tensor, "head d_value vocab"]:
        output = self.gain * matrix_of(self.output, self.d_value, self.gain)
        return output.expand(self.num_heads, -1, -1)

    def listing(self, x: State) -> dict[str, Mixture]:
        return {"timescale": Mixture(("short", "middle", "long"), self.shares(x).float())}


class RoutedMLP(Block):
    """gain * up(act(down(x) + b)), of an activation that each position chooses.

    Args:
        vocab_size: V.
        hidden: Width m of the hidden layer.
        selector: How it is chosen.
    """

    def __init__(self, vocab_size: int, hidden: int, selector: Selector) -> None:
        super().__init__()
        self.down = linear(vocab_size, hidden, bias=True)
        self.up = linear(hidden, vocab_size)
        self.route = linear(vocab_size, len(ROUTES))
        self.selector = selector
        self.gain = nn.Parameter(torch.tensor(GAIN))

    def forward(self, x: State, cache: Any = None) -> State:
        h = self.down(x)
        weights = self.selector(self.route(x)).to(h.dtype)
        chosen = torch.zeros_like(h)
        for index, name in enumerate(ROUTES):
            chosen = chosen + weights[..., index, None] * OPERATIONS[name](h)
        return self.gain * self.up(chosen)

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        return {"write": WordMap(self.down.weight.T, self.gain * self.up.weight.T)}

    def listing(self, x: State) -> dict[str, Mixture]:
        return {"activation": Mixture(ROUTES, self.selector.without_noise(self.route(x)))}


class Halting(Readable):
    """A unit that says how likely a position halts: p = sigmoid(w . x + b), 0.12 at the start.

    Args:
        vocab_size: V.
        threshold: A position halts in evaluation where p is above it.
    """

    def __init__(self, vocab_size: int, threshold: float) -> None:
        super().__init__()
        self.map = linear(vocab_size, 1, bias=True, std=0.01)
        nn.init.constant_(self.map.bias, -2.0)
        self.threshold = threshold

    def forward(self, x: State) -> Float[Tensor, "batch pos 1"]:
        """Whether to halt: logits, fp32."""
        with torch.autocast(x.device.type, enabled=False):
            return self.map(x.float())

    def halts(self, x: State) -> Tensor:
        """Boolean, (batch, pos, 1)."""
        return self(x).sigmoid() > self.threshold

    def listing(self, x: State) -> dict[str, Mixture]:
        p = self.map(x.float()).sigmoid()
        return {"halt": Mixture(("go on", "halt"), torch.cat([1 - p, p], -1))}

    def left(self, states: Sequence[State]) -> Float[Tensor, "steps batch pos 1"]:
        """The chance that a position goes on after each step: the product of 1 - p so far."""
        return torch.stack([F.logsigmoid(-self(x)) for x in states]).cumsum(0).exp()

    def unhalted(self, states: Sequence[State]) -> Float[Tensor, "steps batch pos 1"]:
        """1 while a position has not halted after any step so far, else 0."""
        return torch.stack([~self.halts(x) for x in states]).cumprod(0).float()

    def mean_state(self, states: Sequence[State]) -> State:
        """The sum of P_i x_i, P_i = p_i * product over j < i of (1 - p_j); the last takes all."""
        left = self.left(states[:-1])
        bounds = [torch.ones_like(left[0]), *left, torch.zeros_like(left[0])]
        mean = torch.zeros_like(states[0], dtype=left.dtype)
        for (before, after), x in zip(pairwise(bounds), states, strict=True):
            mean = mean + (before - after) * x
        return mean.to(states[0].dtype)


class Tpg(VocabSpace):
    """Steps of `Timescales` and `RoutedMLP`, after each of which a position may halt.

    In training what is read is the mean of all states by the chance to halt there, and loss/ponder
    is the sum over steps of the chance to go on after them, in the mean over positions (the last
    step's too, though nothing comes after it). In evaluation, as published, a position keeps its
    state from where it halts on, and others still read it: no computation is saved, and what is
    read is a state that had little weight in training if chances stay below the threshold.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_steps: N, at least 2.
        d_state: Width d of queries, keys and values.
        d_mlp: Width m of the MLPs' hidden layer.
        selection: Switch; None: as the mode says, unlike what was published.
        temperature: Of the selection, in the first and in the last round.
        halt_threshold: Chance to halt from which on a position does, in evaluation.
        lambda_ponder: Weight of loss/ponder.
        mode: "faithful" or "repaired".
        score_scale: Switch; None: as the mode says.
        sampled_evaluation: Switch, likewise.
        evaluation_state: Switch, likewise: "exit" is the above, "mean" what training reads.
        options: Of `VocabSpace`.

    Raises:
        ValueError: If there are less than two steps.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_steps: int = 8,
        d_state: int = 64,
        d_mlp: int = 128,
        selection: str | None = "gumbel_hard",
        temperature: Sequence[float] = (1.0, 1.0),
        halt_threshold: float = 0.5,
        lambda_ponder: float = 0.01,
        mode: str = "repaired",
        score_scale: str | None = None,
        sampled_evaluation: str | None = None,
        evaluation_state: str | None = None,
        **options: Any,
    ) -> None:
        if num_steps < 2:
            raise ValueError(f"model.num_steps must be at least 2 to halt, got {num_steps}")
        switches = resolve(
            mode,
            score_scale=score_scale,
            selection=selection,
            sampled_evaluation=sampled_evaluation,
            evaluation_state=evaluation_state,
        )

        def step() -> Step:
            selector = Selector(switches.selection, switches.sampled_evaluation, temperature)
            return Step(
                Residual(Timescales(vocab_size, d_state, switches.score_scale)),
                Residual(RoutedMLP(vocab_size, d_mlp, selector)),
            )

        steps = [step() for _ in range(num_steps)]
        super().__init__(vocab_size, context_length, steps, mode=mode, **options)
        self.halting = Halting(vocab_size, halt_threshold)
        self.lambda_ponder = lambda_ponder
        self.exits = switches.evaluation_state == "exit"

    def run(self, x: State, trace: Trace, cache: VocabCache | None) -> State:
        if self.training or not self.exits:
            super().run(x, trace, cache)
            return self.halting.mean_state(trace.states)
        halted = torch.zeros(*x.shape[:2], 1, dtype=torch.bool, device=x.device)
        for number, index in enumerate(self.order):
            further = self.steps[index](x, None if cache is None else cache.passes[number])
            x = self.after(number, torch.where(halted, x, further), trace)
            halted = halted | self.halting.halts(x)
        return x

    def pass_weights(
        self, states: Sequence[State], start: State
    ) -> Float[Tensor, "passes batch pos 1"]:
        """The mean of states is x_0 + sum of left_{i-1} update_i; where halted, none is added."""
        before = states[:-1]
        later = self.halting.unhalted(before) if self.exits else self.halting.left(before)
        return torch.cat([torch.ones_like(later[:1]), later])

    def auxiliary(self, trace: Trace) -> dict[str, Float[Tensor, ""]]:
        return {"ponder": self.halting.left(trace.states).sum(0).mean()}

    def loss_weights(self, progress: float) -> dict[str, float]:
        return {"ponder": self.lambda_ponder}
