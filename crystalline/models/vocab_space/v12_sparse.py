"""v12: every step reads one slice of the vocabulary and writes another (spec 3.12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crystalline.layers.parts import Parts
from crystalline.models.vocab_space.blocks import State
from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.readable import Readable, WordMap, prefixed
from crystalline.models.vocab_space.slices import SliceBlock, SliceMLP, slice_pairs
from crystalline.models.vocab_space.switches import resolve


def waves(read: Sequence[set[int]], written: Sequence[set[int]]) -> list[list[int]]:
    """Steps that may look at the same state, in the order of their waves.

    A step comes after every earlier one that writes what it reads, and not before one that reads
    what it writes: the waves in turn are the steps in turn. Sums do not ask for an order.
    """
    level: list[int] = []
    for j in range(len(read)):
        after = [level[i] + 1 for i in range(j) if written[i] & read[j]]
        beside = [level[i] for i in range(j) if read[i] & written[j]]
        level.append(max(after + beside, default=0))
    return [
        [i for i, at in enumerate(level) if at == wave]
        for wave in range(max(level, default=-1) + 1)
    ]


class Wave(Readable):
    """Steps that read the same state; what they write is added up."""

    def __init__(self, blocks: Sequence[SliceBlock]) -> None:
        super().__init__()
        self.blocks: Parts[SliceBlock] = Parts(blocks)

    def forward(self, x: State, cache: Sequence[Any] | None = None) -> State:
        before = x
        for index, block in enumerate(self.blocks):
            update = block.update(before, None if cache is None else cache[index])
            x = block.writes.add(x, update)
        return x

    def init_cache(self, batch: int) -> list[Any]:
        return [block.init_cache(batch) for block in self.blocks]

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        found: dict[str, WordMap] = {}
        for index, block in enumerate(self.blocks):
            found |= prefixed(f"blocks.{index}", block.word_maps(vocab_size))
        return found


class Sparse(VocabSpace):
    """One update a step, of k words by k others; steps that do not meet make one pass, a wave.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_steps: N; without any, the first state is the last.
        slice_width: k, words that a step reads, and that it writes.
        inner_multiple: Hidden width of the MLPs, in k.
        activation: gelu, relu, relu2 or silu.
        mode: "faithful" or "repaired".
        score_scale: Switch; as published, 1 / sqrt(k). None: as the mode says.
        addressing: Switch, likewise.
        slice_seed: Of permuted addresses.
        options: Of `VocabSpace`.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_steps: int = 8,
        slice_width: int = 256,
        inner_multiple: int = 2,
        activation: str = "gelu",
        mode: str = "repaired",
        score_scale: str | None = None,
        addressing: str | None = None,
        slice_seed: int = 0,
        **options: Any,
    ) -> None:
        switches = resolve(mode, score_scale=score_scale, addressing=addressing)
        blocks = [
            SliceBlock(
                *pair, SliceMLP(slice_width, inner_multiple, activation), switches.score_scale
            )
            for pair in slice_pairs(
                vocab_size, num_steps, slice_width, switches.addressing, slice_seed
            )
        ]
        order = waves(
            [set(block.reads.index.tolist()) for block in blocks],
            [set(block.writes.index.tolist()) for block in blocks],
        )
        steps = [Wave([blocks[i] for i in wave]) for wave in order]
        super().__init__(vocab_size, context_length, steps, mode=mode, **options)
