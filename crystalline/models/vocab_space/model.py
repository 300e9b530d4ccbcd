"""What the seventeen share: states over the vocabulary, from one-hot vectors to logits.

Every step maps R^V to R^V and the last state, capped, is the logits: nothing is embedded and
nothing unembedded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.contract import Codes, Edits, LanguageModel, ModelOutput
from crystalline.layers.parts import Parts
from crystalline.models.vocab_space.blocks import Scheduled, State, rms
from crystalline.models.vocab_space.readable import Readable, WordMap, prefixed
from crystalline.models.vocab_space.switches import resolve
from crystalline.models.vocab_space.words import TopWords

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Head(nn.Module):
    """logits = cap tanh(gamma rms(read) / cap), of what is read of the last and the first state.

    Args:
        readout: Switch of that name. The state itself holds the current word's one-hot: without
            learning to cancel it, a model repeats the current word (spec 1.3).
        cap: Largest absolute logit.
    """

    def __init__(self, readout: str, cap: float) -> None:
        super().__init__()
        self.readout = readout
        self.cap = cap
        self.gamma = nn.Parameter(torch.ones(()))
        self.forgets = readout == "forgotten"
        """Whether the first state is taken out of states after a pass, and not here."""
        self.beta = nn.Parameter(torch.ones(())) if readout == "learned_beta" else None

    def read(self, x: State, start: State) -> State:
        """What stands for words in a state."""
        return x - self._kept(start)

    def put_back(self, read: State, start: State) -> State:
        """The state of which `read` is read."""
        return read + self._kept(start)

    def forward(self, read: Float[Tensor, "*axes vocab"]) -> Float[Tensor, "*axes vocab"]:
        return self.cap * torch.tanh(self.gamma * rms(read.float()) / self.cap)

    def _kept(self, start: State) -> State | float:
        if self.readout == "state" or self.forgets:
            return 0.0
        return start if self.beta is None else self.beta.to(start.dtype) * start


@dataclass
class VocabCache:
    """What generation carries over."""

    passes: list[Any]
    """Of each pass through a step."""
    position: int = 0
    """Positions seen."""


@dataclass
class Trace:
    """What one forward pass is asked at its sites, and has answered."""

    tokens: Int[Tensor, "batch pos"]
    codes: bool
    edits: Edits
    positions: Int[Tensor, " pos"]
    start: State
    """What every state has of the first one: all of it; once it is forgotten, nothing."""
    found: dict[str, Codes] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)
    """After every pass."""


class VocabSpace(LanguageModel):
    """States of width V, changed by steps and read as logits.

    Sites are `words.<pass>`: the words of largest score in what the head would read after a pass.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        steps: Modules `step(x, cache) -> x` with `init_cache(batch)`; one that stands there twice
            is shared by two passes.
        mode: "faithful" to what was published, but for its reversed mask, or "repaired".
        readout: Switch; see `switches.SWITCHES`, as for the next one. None: as the mode says.
        state_dtype: Switch.
        cap: Largest absolute logit.
        num_words: Words that a site lists.

    Raises:
        ValueError: If an option is unknown.
    """

    num_columns = 1
    """States side by side that passes take in turn: as many passes begin with the first state."""

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        steps: Iterable[nn.Module],
        *,
        mode: str = "repaired",
        readout: str | None = None,
        state_dtype: str | None = None,
        cap: float = 30.0,
        num_words: int = 8,
    ) -> None:
        super().__init__(vocab_size, context_length)
        if not 1 <= num_words <= vocab_size:
            raise ValueError(f"model.num_words must lie in [1, {vocab_size}], got {num_words}")
        switches = resolve(mode, readout=readout, state_dtype=state_dtype)
        self.dtype = DTYPES[switches.state_dtype]
        every = list(steps)
        distinct = list(dict.fromkeys(every))
        self.steps: Parts[nn.Module] = Parts(distinct)
        self.order = [distinct.index(step) for step in every]
        """Which step each pass goes through."""
        self.head = Head(switches.readout, cap)
        self.words: Parts[TopWords] = Parts(TopWords(num_words) for _ in every)

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        codes: bool = False,
        edits: Edits | None = None,
        cache: VocabCache | None = None,
    ) -> ModelOutput:
        first = 0 if cache is None else cache.position
        if first + tokens.shape[1] > self.context_length:
            raise ValueError(f"more than context_length={self.context_length} tokens")
        positions = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        start = self.start(tokens)
        trace = Trace(tokens, codes, edits or {}, positions, start)
        x = self.run(start, trace, cache)
        if cache is not None:
            cache.position += tokens.shape[1]
        losses = self.auxiliary(trace) if self.training else {}
        return ModelOutput(self.head(self.head.read(x, start)), losses, trace.found)

    def start(self, tokens: Int[Tensor, "batch pos"]) -> State:
        """x_0: sqrt(V) at the token's own coordinate."""
        one_hot = torch.eye(1, self.vocab_size, dtype=self.dtype, device=tokens.device)
        size = rms(one_hot).amax()  # scattered: one-hot vectors of all tokens are int64
        zeros = size.new_zeros(*tokens.shape, self.vocab_size)
        return zeros.scatter_(-1, tokens[..., None], size.expand(*tokens.shape, 1))

    def run(self, x: State, trace: Trace, cache: VocabCache | None) -> State:
        """The last state, from the first one."""
        for number, index in enumerate(self.order):
            step = self.steps[index]
            x = step(x, None if cache is None else cache.passes[number])
            x = self.after(number, x, trace)
        return x

    def after(self, number: int, x: State, trace: Trace) -> State:
        """The state after a pass: noted, listed if codes are asked for, edited where asked.

        With `readout="forgotten"` the first state is taken out after the first pass of each column.
        """
        if self.head.forgets and number < self.num_columns:
            x = x - trace.start
            if number == self.num_columns - 1:
                trace.start = torch.zeros_like(x)
        site = f"words.{number}"
        if trace.codes or site in trace.edits:
            read = self.head.read(x, trace.start)
            edit = trace.edits.get(site)
            words = self.words[number]
            changed, found = words(read, edit, trace.positions)
            x = x if edit is None else self.head.put_back(changed, trace.start)
            if trace.codes:
                trace.found[site] = found
        trace.states.append(x)
        return x

    def begin_round(self, progress: float) -> None:
        super().begin_round(progress)
        for part in self.modules():
            if isinstance(part, Scheduled):
                part.begin_round(progress)

    def pass_weights(
        self, states: Sequence[State], start: State
    ) -> Float[Tensor, "passes *#positions 1"]:
        """How much the update of each pass counts in the last state, in evaluation.

        x_N = start + sum over passes of weight * update, an update being what a pass adds to the
        state that it is given. The weights are 1 where each pass is given what the one before left.

        Args:
            states: After every pass.
            start: What they have of the first state.
        """
        return start.new_ones(len(states), 1, 1, 1, dtype=torch.float32)

    def auxiliary(self, trace: Trace) -> dict[str, Float[Tensor, ""]]:
        """Further losses of a training pass, from its states."""
        return {}

    def word_maps(self) -> dict[str, WordMap]:
        """Tables over words that parameters hold, by path of what holds them."""
        found: dict[str, WordMap] = {}
        for index, step in enumerate(self.steps):
            if isinstance(step, Readable):
                found |= prefixed(f"steps.{index}", step.word_maps(self.vocab_size))
        return found

    def alike_parts(self) -> list[nn.Module]:
        return list(self.steps)

    def compiled_parts(self) -> list[nn.Module]:
        return [*self.steps, self.head]

    def init_cache(self, batch_size: int) -> VocabCache:
        steps: list[Any] = [self.steps[index] for index in self.order]
        return VocabCache([step.init_cache(batch_size) for step in steps])
