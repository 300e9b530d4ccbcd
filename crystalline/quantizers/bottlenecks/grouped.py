"""How a vector is cut into groups, each with a bottleneck of its own, and what they write."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.contract import Codes, Edits
from crystalline.layers.parts import Parts
from crystalline.quantizers.bottlenecks import BottleneckOutput
from crystalline.ramp import ramp

GATE = math.log(9)
"""What a gate starts at: sigmoid(ln 9) = 0.9."""


@dataclass
class Trace:
    """What the sites of one block are asked in a forward pass and have answered.

    Names are those within the block, so that code compiled for one block serves all.
    """

    edits: Edits
    entropy: bool
    codes: dict[str, Codes] = field(default_factory=dict)
    losses: list[Mapping[str, Tensor]] = field(default_factory=list)
    """Of every group."""

    @classmethod
    def of(cls, block: str, edits: Edits | None, entropy: bool) -> Trace:
        """With the edits of the sites below `block`."""
        start = f"{block}."
        own = {
            site.removeprefix(start): edit
            for site, edit in (edits or {}).items()
            if site.startswith(start)
        }
        return cls(own, entropy)


def mean_losses(every: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Every auxiliary loss, averaged over the groups of all sites."""
    found: dict[str, list[Tensor]] = {}
    for losses in every:
        for name, value in losses.items():
            found.setdefault(name, []).append(value)
    return {name: torch.stack(values).mean() for name, values in found.items()}


class GroupedBottleneck(nn.Module):
    """A bottleneck for each of G equal parts of a vector, their temperature, gains and gates.

    What is written is gain * (g * codes + (1 - g) * n), with n what the bottleneck sees and
    g = sigmoid(gate): a group whose gate closes has no bottleneck. Without gates g is 1. In
    training g is multiplied by a share that grows from 0 to 1 while codes fade in.

    Args:
        d_model: Width of the vector.
        num_groups: G.
        build: `build(width)`: a bottleneck, or what answers as one does but without codes.
        build_temperature: `build_temperature(num_groups, width)`.
        gain: At the start; None for no gain.
        gated: Whether groups have a gate, 0.9 at the start. Loss `gate` is 1 - g.
        warmup: Share of training over which codes fade in.

    Raises:
        ValueError: If G does not divide the width, or `warmup` lies outside [0, 1].
    """

    def __init__(
        self,
        d_model: int,
        num_groups: int,
        build: Callable[[int], nn.Module],
        build_temperature: Callable[[int, int], nn.Module],
        gain: float | None,
        gated: bool = False,
        warmup: float = 0.0,
    ) -> None:
        super().__init__()
        self.share: Tensor
        if not 0 <= warmup <= 1:
            raise ValueError(f"sites.warmup must lie in [0, 1], got {warmup}")
        if d_model % num_groups:
            raise ValueError(f"sites.groups must divide d_model, got {num_groups} and {d_model}")
        width = d_model // num_groups
        self.group: Parts[nn.Module] = Parts(build(width) for _ in range(num_groups))
        self.temperature: Any = build_temperature(num_groups, width)
        self.gain = None if gain is None else nn.Parameter(torch.full((num_groups,), gain))
        self.gate = nn.Parameter(torch.full((num_groups,), GATE)) if gated else None
        self.warmup = warmup
        self.register_buffer("share", torch.ones(()), persistent=False)

    def begin_round(self, progress: float) -> None:
        """Follow the schedules of the temperature and of the codes' share."""
        self.temperature.begin_round(progress)
        if self.warmup:
            self.share.fill_(ramp(progress, 0.0, self.warmup))

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        trace: Trace,
        name: str,
        positions: Int[Tensor, " pos"],
    ) -> Float[Tensor, "batch pos d_model"]:
        """What the groups write; their codes go to the trace as `<name>.group.<g>`."""
        parts = x.unflatten(-1, (len(self.group), -1))
        temperature = self.temperature(parts)
        answers = []
        for index, bottleneck in enumerate(self.group):
            site = f"{name}.group.{index}"
            answer: BottleneckOutput = bottleneck(
                parts[..., index, :], temperature[..., index],
                override=trace.edits.get(site), positions=positions, entropy=trace.entropy,
            )  # fmt: skip
            if answer.codes is not None:
                trace.codes[site] = answer.codes
            trace.losses.append(answer.losses)
            answers.append(answer)
        written = torch.stack([answer.quantized for answer in answers], -2)
        g = None if self.gate is None else self.gate.sigmoid()
        if g is not None and self.training:
            trace.losses += [{"gate": 1 - each} for each in g.unbind()]
        if self.training and self.warmup:
            g = self.share if g is None else g * self.share
        if g is not None:
            n = torch.stack([answer.inputs for answer in answers], -2)
            written = torch.lerp(n, written.to(n.dtype), g[..., None]).to(written.dtype)
        if self.gain is not None:
            written = written * self.gain[:, None].to(written.dtype)
        return written.flatten(-2)
