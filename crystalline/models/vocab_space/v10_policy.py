"""v10: each position decides what it reads, which operations act on it, what it writes (3.10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.models.vocab_space.blocks import (
    GAIN,
    STD,
    Added,
    Block,
    DecayMemory,
    Fading,
    Shared,
    State,
    Step,
    linear,
    rms,
)
from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.op_bank import OpBank, Selector
from crystalline.models.vocab_space.readable import Mixture, WordMap
from crystalline.models.vocab_space.switches import resolve

OPERATIONS = ("gelu", "relu", "relu2", "silu", "tanh", "sigmoid", "identity", "negate")

Narrow = Float[Tensor, "batch pos d"]


class Decisions(nn.Module):
    """An MLP from d to 2 d to what a position decides.

    Args:
        width: d.
        num_ops: O.
    """

    def __init__(self, width: int, num_ops: int) -> None:
        super().__init__()
        self.widths = (width, num_ops, width)
        self.hidden = nn.Linear(width, 2 * width)
        self.decide = nn.Linear(2 * width, sum(self.widths))
        for map in (self.hidden, self.decide):  # their biases start as torch starts them
            nn.init.normal_(map.weight, std=STD)

    def forward(self, h: Narrow) -> tuple[Narrow, Float[Tensor, "batch pos ops"], Narrow]:
        """Logits of what is read, of the operations, and of what is written."""
        read, operate, write = self.decide(F.gelu(self.hidden(h))).split(self.widths, -1)
        return read, operate, write


class PolicyOp(Block):
    """gain * expand(psi * sum over o of omega_o op_o(rho * h)), decided by h = what d numbers keep.

    h is compress(x) plus what a memory of it finds; rho = softmax, omega as `selector` says and
    psi = sigmoid of what `Decisions` answers to h. All three are of the d numbers, none of words.

    Args:
        vocab_size: V.
        width: d.
        bank: O operations E_o.
        selector: How omega is chosen.
        scale: Switch `score_scale`.
        operand_scale: Switch: "published" leaves rho and results, some 1e-5 of the state, as they
            are; with "unit" rho has mean 1, and results are brought to root mean square 1.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        bank: OpBank,
        selector: Selector,
        scale: str,
        operand_scale: str,
    ) -> None:
        super().__init__()
        self.compress = linear(vocab_size, width)
        self.memory = DecayMemory(
            linear(width, width), linear(width, width), linear(width, width), nn.Identity(),
            d_key=width, d_value=width, scale=scale,
        )  # fmt: skip
        self.decisions = Decisions(width, len(bank.operations))
        self.bank = Shared(bank)
        self.names = tuple(bank.operations)
        self.selector = selector
        self.expand = linear(width, vocab_size)
        self.gain = nn.Parameter(torch.tensor(GAIN))
        self.unit = operand_scale == "unit"

    def forward(self, x: State, cache: Fading | None = None) -> State:
        h = self.kept(x, cache)
        read, operate, write = self.decisions(h)
        rho = read.softmax(-1) * (h.shape[-1] if self.unit else 1)
        y = self.bank(h * rho, self.selector(operate))
        y = rms(y) if self.unit else y
        return self.gain * self.expand(y * write.sigmoid())

    def kept(self, x: State, cache: Fading | None = None) -> Narrow:
        """The h of a normed state."""
        h = self.compress(x)
        return h + self.memory(h, cache)

    def init_cache(self, batch: int) -> Fading:
        return self.memory.init_cache(batch)

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        """What each operation's map makes of a word, if all is read and written alike."""
        left, right = self.compress.weight.T, self.gain * self.expand.weight.T
        maps = zip(self.names, self.bank.owned[0].maps, strict=True)
        return {f"op.{name}": WordMap(left @ map, right) for name, map in maps}

    def listing(self, x: State) -> dict[str, Mixture]:
        operate = self.decisions(self.kept(x))[1]
        return {"operation": Mixture(self.names, self.selector.without_noise(operate))}


class Policy(VocabSpace):
    """x + PolicyOp(rms x), N times; operations are shared by all steps.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_steps: N.
        d_state: Width d of what a step keeps of a state.
        num_ops: Operations in the bank, at most eight.
        temperature: Of their selection, in the first and in the last round.
        mode: "faithful" or "repaired".
        score_scale: Switch; see `switches.SWITCHES`, as for the next ones. None: as the mode says.
        selection: Switch.
        sampled_evaluation: Switch.
        operand_scale: Switch.
        options: Of `VocabSpace`.

    Raises:
        ValueError: If there are not as many operations.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_steps: int = 8,
        d_state: int = 64,
        num_ops: int = 8,
        temperature: Sequence[float] = (1.0, 1.0),
        mode: str = "repaired",
        score_scale: str | None = None,
        selection: str | None = None,
        sampled_evaluation: str | None = None,
        operand_scale: str | None = None,
        **options: Any,
    ) -> None:
        if not 1 <= num_ops <= len(OPERATIONS):
            raise ValueError(f"model.num_ops must lie in [1, {len(OPERATIONS)}], got {num_ops}")
        switches = resolve(
            mode,
            score_scale=score_scale,
            selection=selection,
            sampled_evaluation=sampled_evaluation,
            operand_scale=operand_scale,
        )
        bank = OpBank(OPERATIONS[:num_ops], d_state, bias=False)

        def step() -> Step:
            selector = Selector(switches.selection, switches.sampled_evaluation, temperature)
            op = PolicyOp(
                vocab_size, d_state, bank, selector, switches.score_scale, switches.operand_scale
            )
            return Step(Added(op))

        steps = [step() for _ in range(num_steps)]
        super().__init__(vocab_size, context_length, steps, mode=mode, **options)
        self.bank = bank
