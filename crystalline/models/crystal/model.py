"""Crystal: one block whose hidden layer is a field of neurons that grows and freezes in training.

h = E[token] + P[place];  for each block: attention (perhaps), field, MLP;  logits = W norm(h) (+ b)

Source: a published series of scripts; docs/crystal.md says what was kept and what was mended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from crystalline.contract import Codes, Edits, LanguageModel, ModelOutput, Renewal
from crystalline.layers.attention import KeyValueCache
from crystalline.layers.initialisation import init_weights
from crystalline.layers.mlp import MLP
from crystalline.layers.parts import Parts
from crystalline.models.crystal.attention import DotAttention, GeometricAttention
from crystalline.models.crystal.block import Block, FieldHeads
from crystalline.models.crystal.field import NeuronField
from crystalline.models.crystal.freezing import Freezing
from crystalline.models.crystal.growth import Growth
from crystalline.models.crystal.lifecycle import Lifecycle, Manner
from crystalline.models.crystal.scales import Scales
from crystalline.models.crystal.shipping import (
    Facts,
    config_without_room,
    runtime_facts,
    without_room,
)
from crystalline.models.crystal.stack import HandOver
from crystalline.models.crystal.switches import SWITCHES
from crystalline.models.modes import resolve

ATTENTIONS = {"dot": DotAttention, "geometric": GeometricAttention}
MEMORIES = ("field", "mlp", "none")


@dataclass
class Cache:
    """What generation carries over."""

    blocks: list[KeyValueCache | None]
    """Keys and values of blocks that have attention."""
    positions: int = 0
    """Positions seen."""


class Crystal(LanguageModel):
    """A language model with a growing field of neurons.

    Args:
        vocab_size: V.
        context_length: T, tokens.
        d_model: D.
        num_layers: Blocks.
        num_heads: Of the attention.
        d_mlp: Hidden width of the MLPs; 2 d_model if None.
        dropout: On embeddings and on what parts write.
        capacity: Room for neurons in each field; a list: in those of each block.
        founders: Neurons that a field starts with.
        field_heads: Fields a block, each over its share of the coordinates.
        memory: "field"; "mlp": one with `capacity` hidden units, as many parameters, in its place;
            "none".
        num_codes: Neurons named at a position.
        position_std: Of the first positions of neurons.
        width_init: First reach of a neuron, less 0.1.
        attention_kind: "dot" or "geometric".
        fading: See `FrontAttention`.
        annealing: First and last factor on every neuron's reach, moved straight over training.
        epochs: Equal parts of training; births and freezing happen between them.
        growth: Schedule of births, one for all blocks or one a block; None: none.
        freezing: Rule of freezing, likewise.
        scales: Scales of neurons; None: all 1.
        hand_over: When the stack gets its next block; None: it is whole from the start.
        mode: What the switches that are not given say.
        switches: See `SWITCHES`.

    Raises:
        ValueError: If a value is out of its range; the message names the key.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        d_model: int,
        num_layers: int = 1,
        num_heads: int = 4,
        d_mlp: int | None = None,
        dropout: float = 0.0,
        *,
        capacity: int | Sequence[int] = 1024,
        founders: int = 64,
        field_heads: int = 1,
        memory: Literal["field", "mlp", "none"] = "field",
        num_codes: int = 4,
        position_std: float = 0.5,
        width_init: float = 0.5,
        attention_kind: Literal["dot", "geometric"] = "dot",
        fading: float | None = None,
        annealing: Sequence[float] | None = None,
        epochs: int = 600,
        growth: Growth | Sequence[Growth] | None = None,
        freezing: Freezing | Sequence[Freezing] | None = None,
        scales: Scales | None = None,
        hand_over: HandOver | None = None,
        mode: str = "repaired",
        **switches: str | None,
    ) -> None:
        super().__init__(vocab_size, context_length)
        _check(memory, attention_kind, d_model, field_heads, switches)
        self.switches = resolve(SWITCHES, mode, {name: None for name in SWITCHES} | switches)
        self.num_heads = num_heads
        self.epochs = epochs
        self.annealing = annealing
        self.hand_over = hand_over
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(context_length, d_model)
        self.dropout = nn.Dropout(dropout)
        sees = {"none": 0, "first": 1, "every": num_layers}[self.switches.attention]

        def field(room: int) -> NeuronField:
            return NeuronField(
                d_model // field_heads, room, founders, position_std=position_std,
                width=self.switches.width, width_init=width_init,
                null_slot=self.switches.null_slot == "guard",
                learned_mass=self.switches.split == "exact", num_codes=num_codes,
            )  # fmt: skip

        def block(index: int) -> Block:
            attention = None
            if index < sees:
                attention = ATTENTIONS[attention_kind](
                    d_model, num_heads, context_length, fading, dropout
                )
            inner: NeuronField | FieldHeads | MLP | None = None
            room = _own(capacity, index)
            if memory == "mlp":
                inner = MLP(d_model, room, dropout)
            elif memory == "field":
                heads = [field(room) for _ in range(field_heads)]
                inner = FieldHeads(heads) if field_heads > 1 else heads[0]
            return Block(d_model, d_mlp or 2 * d_model, attention, inner, dropout)

        self.blocks: Parts[Block] = Parts(block(index) for index in range(num_layers))
        self.norm = nn.LayerNorm(d_model) if self.switches.final_norm == "layer" else None
        self.head = nn.Linear(d_model, vocab_size, bias=self.switches.head == "own")
        self._start()
        self.lives: Parts[Lifecycle] = Parts(self._lives(growth, freezing, scales))
        if hand_over is not None:
            hand_over.start(list(self.blocks), silent=self.switches.insertion == "silent")
        self._before: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self.begin_round(0.0)

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        codes: bool = False,
        edits: Edits | None = None,
        cache: Cache | None = None,
    ) -> ModelOutput:
        start = 0
        if cache is not None:
            start, cache.positions = cache.positions, cache.positions + tokens.shape[1]
        places = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        x = self.dropout(self.embedding(tokens) + self.position_embedding(places))
        found: dict[str, Codes] = {}
        for index, block in enumerate(self.blocks):
            prefix, kept = f"blocks.{index}.", None if cache is None else cache.blocks[index]
            own = {
                site.removeprefix(prefix): edit
                for site, edit in (edits or {}).items()
                if site.startswith(prefix)
            }
            after, chosen = block(x, own, places, codes, kept)
            x = after if self.hand_over is None else torch.where(block.opened, after, x)
            found |= {prefix + site: made for site, made in chosen.items()}
        if self.norm is not None:
            x = self.norm(x)
        if self.head.bias is None:
            return ModelOutput(x, codes=found, head=self.head.weight)
        # A bias is the weight of one more input, which is 1; widths stay multiples of eight.
        ones = F.pad(torch.ones_like(x[..., :1]), (0, 7))
        bias = F.pad(self.head.bias[:, None], (0, 7))
        head = torch.cat([self.head.weight, bias], 1)
        return ModelOutput(torch.cat([x, ones], -1), codes=found, head=head)

    def init_cache(self, batch_size: int) -> Cache:
        attentions = [block.attention for block in self.blocks]
        return Cache([None if a is None else a.init_cache(batch_size) for a in attentions])

    def alike_parts(self) -> list[nn.Module]:
        return list(self.blocks)

    # Life

    def fields(self) -> dict[str, NeuronField]:
        """Every field by its site."""
        return {
            f"blocks.{index}.{name}": field
            for index, block in enumerate(self.blocks)
            for name, field in block.fields().items()
        }

    def begin_round(self, progress: float) -> None:
        super().begin_round(progress)
        if self.annealing is not None:
            first, last = self.annealing
            for field in self.fields().values():
                field.reach.fill_(first + (last - first) * progress)

    def after_backward(self) -> None:
        """Measure neurons and hold back the gradients of those that learn slowly or not at all."""
        for life in self.lives:
            life.observe()
        self._before = []
        for parameter, rate in self._rates():
            if parameter.grad is None:
                continue
            if self.switches.hold == "gradient":
                parameter.grad.mul_(rate)
            else:
                parameter.grad.mul_(rate > 0)
                self._before.append((parameter, rate, parameter.detach().clone()))

    @torch.no_grad()
    def end_round(self, skip: Tensor) -> None:
        """Take back the share of the round's update that rates do not allow."""
        super().end_round(skip)
        for parameter, rate, before in self._before:
            parameter.copy_(torch.lerp(before, parameter, rate.expand_as(parameter)))
        self._before = []

    def end_epoch(self, epoch: int, seed: int, loss: float | None) -> list[Renewal]:
        renewals: list[Renewal] = []
        homes = [block for block in self.blocks for _ in block.fields()]
        for index, (block, life) in enumerate(zip(homes, self.lives, strict=False)):
            if self.hand_over is None or (bool(block.opened) and float(block.rate) > 0):
                renewals += life.end_epoch(epoch, (seed * 1_000_003 + epoch) * 64 + index, loss)
        if self.hand_over is not None:
            silent = self.switches.insertion == "silent"
            self.hand_over.end_epoch(list(self.blocks), epoch, silent=silent)
        return renewals

    def population(self) -> dict[str, float]:
        fields = list(self._open_fields().values())
        if not fields:
            return {}
        rates = torch.cat([field.rate[field.alive] for field in fields])
        return {
            "field/neurons": len(rates),
            "field/frozen": sum(int(field.frozen.sum()) for field in fields),
            "field/slow_share": float((rates < 0.1).float().mean()),
        }

    def census(self) -> dict[str, dict[str, Tensor]]:
        activity = {id(life.field): life.activity.average for life in self.lives}
        found = {}
        for site, field in self._open_fields().items():
            rows = field.alive.nonzero()[:, 0]
            columns = {"parent": field.parent, "birth": field.birth, "frozen": field.frozen}
            columns |= {"positions": field.positions, "scale": field.scale, "rate": field.rate}
            columns["activity"] = activity.get(id(field), torch.zeros_like(field.scale))
            kept = {name: value.detach()[rows].cpu() for name, value in columns.items()}
            found[site] = {"row": rows.cpu(), **kept}
        return found

    def ablations(self) -> dict[str, list[nn.Parameter]]:
        found: dict[str, list[nn.Parameter]] = {}
        for block in self.blocks:
            parts: dict[str, nn.Module] = {"mlp": block.mlp.down}
            if block.attention is not None:
                parts["attention"] = block.attention.out
            if isinstance(block.field, MLP):
                parts["memory"] = block.field.down
            for name, module in parts.items():
                found.setdefault(name, []).extend(module.parameters())
            for field in block.fields().values():
                found.setdefault("memory", []).append(field.values)  # type: ignore[arg-type]
        return found

    def count_parameters(self) -> dict[str, int]:
        """Those of living neurons and of blocks that are there.

        On the meta device, where nothing is known of either, room counts too.
        """
        if self.embedding.weight.is_meta:
            return super().count_parameters()
        dead = sum(
            int((~field.alive).sum()) * sum(p[0].numel() for p in field.row_parameters())
            for field in self.fields().values()
        )
        closed = sum(
            sum(p.numel() for p in block.parameters()) for block in self.blocks if not block.opened
        )
        total = sum(p.numel() for p in self.parameters()) - dead - closed
        return {"parameters": total, "parameters_without_codebooks": total}

    def _open_fields(self) -> dict[str, NeuronField]:
        """Fields of blocks that are there."""
        there = [f"blocks.{i}." for i, block in enumerate(self.blocks) if block.opened]
        return {s: f for s, f in self.fields().items() if s.startswith(tuple(there))}

    def _rates(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Parameters that may learn slowly, each with its rates."""
        found: list[tuple[nn.Parameter, Tensor]] = []
        for block in self.blocks:
            rows = set()
            for field in block.fields().values():
                for parameter in field.row_parameters():
                    rate = field.rate * block.rate
                    found.append((parameter, rate.view(-1, *[1] * (parameter.ndim - 1))))
                    rows.add(id(parameter))
            if self.hand_over is not None:
                rest = [p for p in block.parameters() if id(p) not in rows]
                found += [(p, block.rate) for p in rest]
        return found

    # Files

    def for_export(self) -> Crystal:
        return without_room(self)

    def export_config(self, config: dict[str, Any]) -> dict[str, Any]:
        return config_without_room(self, config)

    def runtime_metadata(self) -> Facts | None:
        return runtime_facts(self)

    # Building

    def _start(self) -> None:
        if self.switches.init == "small":
            written = [block.mlp.down for block in self.blocks]
            written += [b.attention.out for b in self.blocks if b.attention is not None]
            init_weights(self, residual=written, residual_std=0.02 / len(written) ** 0.5)
        if self.switches.head == "tied":
            self.head.weight = self.embedding.weight

    def _lives(self, growth: Any, freezing: Any, scales: Scales | None) -> list[Lifecycle]:
        if growth is None and freezing is None and scales is None:
            return []
        switches = self.switches
        manner = Manner(
            switches.reading, switches.calm, switches.split, switches.hold,
            switches.optimizer_after_birth,
        )  # fmt: skip
        found = []
        for index, block in enumerate(self.blocks):
            own = _own(growth, index)
            if own is not None and switches.late_births == "none":
                own = own.ending_at(0.9)
            found += [
                Lifecycle(field, manner, own, _own(freezing, index), scales, self.epochs)
                for field in block.fields().values()
            ]
        return found


def _own(rules: Any, index: int) -> Any:
    return rules[index] if isinstance(rules, Sequence) else rules


def _check(
    memory: str, kind: str, d_model: int, field_heads: int, switches: dict[str, Any]
) -> None:
    if memory not in MEMORIES:
        raise ValueError(f"model.memory must be {' or '.join(MEMORIES)}, got {memory!r}")
    if kind not in ATTENTIONS:
        raise ValueError(f"model.attention_kind must be {' or '.join(ATTENTIONS)}, got {kind!r}")
    if d_model % field_heads:
        raise ValueError(f"model.field_heads must divide d_model ({d_model}), got {field_heads}")
    unknown = sorted(set(switches) - set(SWITCHES))
    if unknown:
        raise ValueError(f"model.{unknown[0]}: no such key; switches are {', '.join(SWITCHES)}")
