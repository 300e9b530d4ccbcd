"""Does a model use its codes? How much worse it predicts when a site's codes say nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from crystalline.contract import Choice, Codes, Edit, Edits, LanguageModel
from crystalline.eval_mode import evaluating
from crystalline.interpret.interventions import merge
from crystalline.layers.cross_entropy import IGNORED
from crystalline.metrics.code_rate import CodeRate, SiteCounts

Batches = Sequence[tuple[Tensor, Tensor]]
"""Tokens and targets (-100: not scored), int64 (batch, pos), on the model's device."""

ALL = "all"
"""Stands for every site at once."""


def code_use(
    model: LanguageModel, batches: Iterable[tuple[Tensor, Tensor]], seed: int
) -> dict[str, dict[str, float]]:
    """By site, the rise of the cross-entropy when its codes are replaced at every position.

    What comes after the site chooses anew from what it then finds; what the model predicts from
    beside the site is left to it, so a rise of 0 says that the codes add nothing to the rest, not
    that they hold nothing.

    Args:
        model: Its modes are the same afterwards.
        batches: Tokens and targets (-100: not scored), int64 (batch, pos), on the model's device.
        seed: Of the permutation.

    Returns:
        `constant`: nats a token more when every position has the commonest codes, of each level or
        as many as a position has from a shared book. `shuffled`: when the positions' codes are
        permuted over all sequences. Both with `_bits`, the same in bits a position of the site;
        `choice_bits`, which the choices take by their own shares, and `limit_bits`, log2 of the
        number of choices (log2 K for one code of K), bound what they could be worth. Entry "all",
        where there are several sites, replaces them together and has nats alone. Nothing without
        codes.
    """
    kept = list(batches)
    rate, codes, clean = CodeRate(), [], 0.0
    with evaluating(model):
        for tokens, targets in kept:
            output = model(tokens, codes=True)
            clean += float(output.cross_entropy(targets).nats.double().sum())
            rate.update(output.codes, targets != IGNORED)
            codes.append(output.codes)
    count = int(rate.tokens)
    edits = {
        "constant": {name: _constant(name, codes, site) for name, site in rate.sites.items()},
        "shuffled": {name: _shuffled(name, codes, seed) for name in rate.sites},
    }
    found: dict[str, dict[str, float]] = {}
    for name, site in rate.sites.items():
        positions = int(site.sizes.sum())
        rises = {kind: _nats(model, kept, by_site[name]) - clean for kind, by_site in edits.items()}
        found[name] = {kind: rise / count for kind, rise in rises.items()}
        if positions:
            bits = {f"{kind}_bits": rise / math.log(2) for kind, rise in rises.items()}
            bits |= {"choice_bits": site.bits(), "limit_bits": site.limit()}
            found[name] |= {key: value / positions for key, value in bits.items()}
    if len(found) > 1:
        found[ALL] = {}
        for kind, by_site in edits.items():
            together = [merge(*each) for each in zip(*by_site.values(), strict=True)]
            found[ALL][kind] = (_nats(model, kept, together) - clean) / count
    return found


def replacing(source: Int[Tensor, "#batch #pos k"], real: Bool[Tensor, "batch pos"] | None) -> Edit:
    """An edit that puts `source` at the positions that are `real` (None: at all)."""

    def edit(choice: Choice) -> Tensor:
        codes = source.expand_as(choice.indices)
        return codes if real is None else torch.where(real[..., None], codes, choice.indices)

    return edit


def _constant(name: str, codes: Sequence[Mapping[str, Codes]], site: SiteCounts) -> list[Edits]:
    """For each batch: everywhere the commonest codes."""
    k = len(site.sizes) - 1
    commonest = site.codes[0].topk(k).indices if site.shared else site.codes.argmax(-1)
    return [
        {name: replacing(commonest[None, None], batch[name].mask)} if name in batch else {}
        for batch in codes
    ]


def _shuffled(name: str, codes: Sequence[Mapping[str, Codes]], seed: int) -> list[Edits]:
    """For each batch: the codes of other positions, each used once in all."""
    chosen = [batch[name].indices[_real(batch[name])] for batch in codes if name in batch]
    rows = torch.cat(chosen)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    parts = iter(rows[order.to(rows.device)].split([len(part) for part in chosen]))
    found: list[Edits] = []
    for batch in codes:
        if name not in batch:
            found.append({})
            continue
        real, source = _real(batch[name]), batch[name].indices.clone()
        source[real] = next(parts)
        found.append({name: replacing(source, real)})
    return found


def _real(codes: Codes) -> Bool[Tensor, "batch pos"]:
    if codes.mask is not None:
        return codes.mask
    return torch.ones_like(codes.indices[..., 0], dtype=torch.bool)


def _nats(model: LanguageModel, batches: Batches, edits: Sequence[Edits]) -> float:
    """Sum over all targets, with the edits of each batch."""
    total = 0.0
    with evaluating(model):
        for (tokens, targets), each in zip(batches, edits, strict=True):
            nats = model(tokens, edits=each).cross_entropy(targets).nats
            total += float(nats.double().sum())
    return total
