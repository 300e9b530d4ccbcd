"""How much of a text its codes give back, and what both cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crystalline.contract import Codes, LanguageModel
from crystalline.eval_mode import evaluating
from crystalline.interpret.sites import site_positions
from crystalline.layers.cross_entropy import IGNORED


@dataclass(frozen=True)
class Reconstructed:
    """Positions of one length, each token told its position's code and all tokens before it."""

    length: int
    """Tokens of a position; 0 stands for all lengths together."""
    positions: int
    accuracy: float
    """Share of their tokens that are the likeliest one."""
    nats: float
    """Mean -ln p of a token."""
    exact: float
    """Share of positions whose tokens are all the likeliest ones."""


@dataclass(frozen=True)
class FromCodes:
    """What codes say of a text."""

    rows: list[Reconstructed]
    """By the codes of the first site, the finest one: all lengths together, then each that occurs.

    Left out are a window's first position, whose first token nothing foretells, what no position
    has finished, and positions with a token that is not scored.
    """
    token_nats: float
    """What all tokens but a window's first cost in sum, told the codes of their positions."""
    code_nats: float
    """What the codes of all sites cost in sum: with the tokens a two-part description."""


def reconstruction(
    model: LanguageModel, batches: Iterable[tuple[Tensor, Tensor]]
) -> FromCodes | None:
    """Teacher-forced reconstruction, and the length of a two-part description.

    Args:
        model: Its mode is the same afterwards.
        batches: Tokens and targets (-100: not scored), int64 (batch, pos), on the model's device.
            What stands behind a row's last target costs codes.

    Returns:
        None for a model that reconstructs nothing.
    """
    found: list[Float[Tensor, "positions 4"]] = []
    token_nats = code_nats = 0.0
    with evaluating(model):
        for tokens, targets in batches:
            spoken = model.reconstruct(tokens)
            if spoken is None:
                return None
            output = spoken.output
            nats = output.cross_entropy(targets).nats[:, :-1]
            right = output.logits[:, :-1].argmax(-1) == targets[:, :-1]
            codes = next(iter(output.codes.values()))
            token_nats += float(nats.double().sum())
            code_nats += float(spoken.code_nats.double().sum())
            found.append(_by_position(codes, nats, right, targets[:, :-1] != IGNORED))
    return FromCodes(_by_length(torch.cat(found)), token_nats, code_nats)


def _by_length(rows: Float[Tensor, "positions 4"]) -> list[Reconstructed]:
    if not len(rows):
        return []
    lengths = rows[:, 0].long()
    each = [_summary(int(length), rows[lengths == length]) for length in lengths.unique()]
    return [_summary(0, rows), *each]


def _by_position(
    codes: Codes,
    nats: Float[Tensor, "batch foretold"],
    right: Bool[Tensor, "batch foretold"],
    scored: Bool[Tensor, "batch foretold"],
) -> Float[Tensor, "positions 4"]:
    """Length, right tokens, nats and 1 if all are right, of every whole position but the first."""
    places = torch.arange(nats.shape[1] + 1, device=nats.device)
    position = site_positions(codes, places)  # -1: not finished
    size = codes.indices.shape[1]
    target = torch.where(position < 0, size, position)
    length = _summed(torch.ones_like(target, dtype=torch.float64), target, size)
    own = target[:, 1:]
    hits, cost, seen = (_summed(each.double(), own, size) for each in (right, nats, scored))
    whole = (seen == length) & (length > 0)
    rows = torch.stack([length, hits, cost, (hits == length).double()], -1)
    return rows[whole].cpu()


def _summed(
    values: Float[Tensor, "batch n"], position: Int[Tensor, "batch n"], size: int
) -> Float[Tensor, "batch size"]:
    sums = values.new_zeros(len(values), size + 1)
    return sums.scatter_add_(1, position, values)[:, :size]


def _summary(length: int, rows: Float[Tensor, "positions 4"]) -> Reconstructed:
    tokens, hits, nats, exact = rows.sum(0).tolist()
    return Reconstructed(length, len(rows), hits / tokens, nats / tokens, exact / len(rows))
