"""Interventions: edits that put, ban or copy codes at chosen positions of a site.

An edit acts between choice and lookup and sees the site's absolute positions, so it reaches cached
positions too: one edit serves a full pass and every step of generation. Operations are those of
Codebook Features (Tamkin et al. 2023, arXiv:2310.17230). Setting a slot to zero is not among them:
an edit answers with k indices, and no index means "nothing".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from crystalline.contract import Choice, Edit, Edits, LanguageModel, ModelOutput
from crystalline.errors import UserError
from crystalline.interpret.sites import Code, Site, checked


def activate(
    site: Site, code: int, slots: Sequence[int] | None = (-1,), positions: Tensor | None = None
) -> Edit:
    """Put `code` into some of the k slots.

    Args:
        site: Where.
        code: In [0, codebook_size).
        slots: Slots or levels, negative ones from the end; the last slot of a shared book holds the
            least similar code. None for all.
        positions: int64 (n,), or (batch, n) if rows differ, in the site's own sequence; None for
            all, prompt and generated.

    Raises:
        UserError: If the code or a slot does not exist.
    """
    checked({site.name: site}, [Code(site.name, 0, code)])
    chosen = list(range(site.k)) if slots is None else list(slots)
    if any(not -site.k <= slot < site.k for slot in chosen):
        raise UserError(f"slots={chosen}: {site.name} has {site.k}")

    def edit(choice: Choice) -> Tensor:
        indices = choice.indices.clone()
        indices[..., chosen] = code
        return torch.where(_at(choice, positions)[..., None], indices, choice.indices)

    return edit


def deactivate(
    site: Site, codes: Iterable[int], level: int = 0, positions: Tensor | None = None
) -> Edit:
    """Where one of `codes` was chosen, choose as if they were not in the book: k is kept.

    Later levels code what the new choice leaves over. Positions that chose none stay as they are.

    Raises:
        UserError: If a code or the level does not exist, or no code of the book would be left.
    """
    wanted = checked({site.name: site}, [Code(site.name, level, code) for code in codes])
    banned = torch.zeros(site.num_books, site.codebook_size, dtype=torch.bool)
    banned[level, [code.code for code in wanted]] = True
    left, least = int((~banned[level]).sum()), site.k if site.shared else 1
    if left < least:
        raise UserError(f"codes: {left} would be left in {site.name}, which chooses {least}")

    def edit(choice: Choice) -> Tensor:
        out = banned.to(choice.indices.device)
        hit = _among(choice.indices, out) & _at(choice, positions)
        return torch.where(hit[..., None], choice.without(out), choice.indices)

    return edit


def patch(
    site: Site,
    source: Int[Tensor, "rows source_pos k"],
    positions: Tensor | None = None,
    source_positions: Tensor | None = None,
) -> Edit:
    """Copy what another run chose.

    Args:
        site: Where.
        source: int64 indices of the other run, of one row or of as many as the batch has.
        positions: int64 (n,) or (batch, n), where to; None for every position that `source` has.
        source_positions: Of the same shape, where from; None for the same positions.

    Raises:
        UserError: If `source` does not fit the site.
    """
    if source.shape[-1] != site.k or not 0 <= int(source.min()) <= int(source.max()) < (
        site.codebook_size
    ):
        raise UserError(
            f"a patch of {site.name} needs {site.k} indices a position, "
            f"each in [0, {site.codebook_size}), got shape {tuple(source.shape)}"
        )
    where = torch.arange(source.shape[1]) if positions is None else positions
    origin = where if source_positions is None else source_positions

    def edit(choice: Choice) -> Tensor:
        rows, _, k = choice.indices.shape
        match = _matches(choice, where)
        hit = match.any(-1)
        places = origin.to(hit.device).broadcast_to(len(match), match.shape[-1])
        taken = places.gather(1, match.long().argmax(-1))  # 0 where none matches: not used
        codes = source.to(hit.device).expand(rows, -1, -1)
        copied = codes.gather(1, taken.expand(rows, -1)[..., None].expand(-1, -1, k))
        return torch.where(hit[..., None], copied, choice.indices)

    return edit


def activations(
    sites: Mapping[str, Site],
    codes: Iterable[Code],
    positions: Mapping[str, Tensor] | None = None,
) -> list[Edits]:
    """One edit for each code, such that `merge` of them holds all codes at once.

    Codes of a shared book take its slots from the last one on: the first is in slot -1, the next in
    slot -2. A code of a level takes its level's place.

    Args:
        sites: What `find_sites` gave.
        codes: Which.
        positions: By site; None for all.

    Raises:
        UserError: If a code does not exist or two want the same place.
    """
    found: list[Edits] = []
    for site, slot, code in _slots(sites, codes):
        where = None if positions is None else positions[site.name]
        found.append({site.name: activate(site, code, (slot,), where)})
    return found


def clamp(sites: Mapping[str, Site], codes: Iterable[Code]) -> Edits:
    """All `codes` active at every position, prompt and generated; see `activations`."""
    return clamp_rows(sites, [codes])


def clamp_rows(
    sites: Mapping[str, Site], arms: Sequence[Iterable[Code]], tokens: int | None = None
) -> Edits:
    """The codes of each of `arms` active at an equal share of the batch's rows, in this order.

    Args:
        sites: What `find_sites` gave.
        arms: Codes of each; none leaves its rows as they are.
        tokens: Held at the first so many tokens; a position that covers several is among those of
            its first one. None: at every position, prompt and generated.

    Raises:
        UserError: If a code does not exist, two of an arm want the same place, or codes are to be
            held at the first tokens of a site whose positions cover different numbers of them.
    """
    tables: dict[str, Int[Tensor, "arms k"]] = {}
    for number, codes in enumerate(arms):
        for site, slot, code in _slots(sites, codes):
            table = tables.setdefault(site.name, torch.full((len(arms), site.k), -1))
            table[number, slot] = code
    edits: dict[str, Edit] = {}
    for name, table in tables.items():
        if tokens is not None and sites[name].varies:
            raise UserError(
                f"held_tokens={tokens}: positions of {name} cover different numbers of tokens; "
                "hold codes at every token with null"
            )
        edits[name] = _held(table, None if tokens is None else -(-tokens // sites[name].span))
    return edits


def _held(table: Int[Tensor, "arms k"], end: int | None) -> Edit:
    """Puts what stands in `table` (-1: nothing) into equal parts of the rows, before `end`."""
    tables: dict[torch.device, Tensor] = {}

    def edit(choice: Choice) -> Tensor:
        rows, device = len(choice.indices), choice.indices.device
        if rows % len(table):
            raise ValueError(f"{rows} rows are not {len(table)} equal parts")
        if device not in tables:
            tables[device] = table.to(device)
        put = tables[device].repeat_interleave(rows // len(table), 0)[:, None]
        where = put >= 0
        if end is not None:
            where = where & (choice.positions < end)[:, None]
        return torch.where(where, put, choice.indices)

    return edit


def _slots(sites: Mapping[str, Site], codes: Iterable[Code]) -> Iterator[tuple[Site, int, int]]:
    """Site, slot and number of each code, as `activations` places them.

    Raises:
        UserError: If a code does not exist or two want the same place.
    """
    taken: set[tuple[str, int]] = set()
    for name, level, code in checked(sites, codes):
        site = sites[name]
        slot = site.k - 1 - sum(place[0] == name for place in taken) if site.shared else level
        if slot < 0 or (name, slot) in taken:
            raise UserError(f"codes: {name} has no room left at level {level} for code {code}")
        taken.add((name, slot))
        yield site, slot, code


def compose(*edits: Edit) -> Edit:
    """One edit after the other: each sees what those before it have chosen.

    `without` goes the same way, so that two deactivations never bring back each other's codes.
    """

    def edit(choice: Choice) -> Tensor:
        for each in edits:
            choice = _after(choice, each)
        return choice.indices

    return edit


def merge(*edits: Edits) -> Edits:
    """The edits of all, composed in this order where they meet at a site."""
    names = dict.fromkeys(name for each in edits for name in each)
    return {name: compose(*(each[name] for each in edits if name in each)) for name in names}


class Edited(LanguageModel):
    """A model under standing edits: whatever reads or samples a model, reads or samples this.

    Positions are those since the cache was empty: where text outgrows the context and the window
    slides, only edits of every position keep their meaning.
    """

    def __init__(self, model: LanguageModel, edits: Edits) -> None:
        super().__init__(model.vocab_size, model.context_length)
        self.alignment = model.alignment
        self.model = model
        self.edits = dict(edits)

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        codes: bool = False,
        edits: Edits | None = None,
        cache: Any = None,
    ) -> ModelOutput:
        return self.model(tokens, codes=codes, edits=merge(self.edits, edits or {}), cache=cache)

    def init_cache(self, batch_size: int) -> Any:
        return self.model.init_cache(batch_size)


def _after(choice: Choice, edit: Edit) -> Choice:
    """The choice as `edit` leaves it."""

    def without(banned: Tensor) -> Tensor:
        plain = choice.without(banned)
        inner = Choice(plain, choice.positions, lambda more: choice.without(banned | more))
        found = edit(inner)
        return torch.where(_among(found, banned)[..., None], plain, found)  # the later edit wins

    return Choice(edit(choice), choice.positions, without)


def _among(
    indices: Int[Tensor, "batch pos k"], banned: Bool[Tensor, "books codebook_size"]
) -> Bool[Tensor, "batch pos"]:
    """Where one of the chosen codes is banned."""
    book = torch.arange(indices.shape[-1], device=indices.device) % len(banned)
    return banned[book, indices].any(-1)


def _at(choice: Choice, positions: Tensor | None) -> Bool[Tensor, "rows pos"]:
    """Where the choice is about one of `positions`; `rows` is 1 if all rows are alike."""
    if positions is None:
        return torch.ones_like(choice.positions, dtype=torch.bool)[None]
    return _matches(choice, positions).any(-1)


def _matches(choice: Choice, positions: Tensor) -> Bool[Tensor, "rows pos n"]:
    wanted = positions.to(choice.positions.device)
    wanted = wanted if wanted.ndim == 2 else wanted[None]
    return choice.positions[None, :, None] == wanted[:, None]
