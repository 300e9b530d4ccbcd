"""What and where: the sites of a model, its codes, and the positions that cover a token."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from crystalline.contract import Codes, LanguageModel
from crystalline.errors import UserError
from crystalline.eval_mode import evaluating


class Site(NamedTuple):
    """What an edit of a site must know."""

    name: str
    codebook_size: int
    k: int
    """Indices a position: levels of a residual quantizer, or slots of one book."""
    shared: bool
    """Whether the k slots share one book; the last slot is then the least similar."""
    span: int
    varies: bool = False
    """Whether positions cover different numbers of tokens."""

    @property
    def num_books(self) -> int:
        return 1 if self.shared else self.k

    @property
    def room(self) -> int:
        """Codes of one book that a position can hold."""
        return self.k if self.shared else 1


class Code(NamedTuple):
    """A code of a model."""

    site: str
    level: int
    """Its book: a level of a residual quantizer; 0 where slots share a book."""
    code: int


def layer_of(site: str) -> int | None:
    """The layer that a site's name tells: its first number ("layers.3.mlp.group.0"); else None."""
    number = re.search(r"\.(\d+)(?:\.|$)", site)
    return int(number[1]) if number else None


def find_sites(model: LanguageModel) -> dict[str, Site]:
    """Every site of the model, in the order of computation, from one pass over a blank context."""
    device = next(model.parameters()).device
    blank = torch.zeros(1, model.context_length, dtype=torch.int64, device=device)
    with evaluating(model):
        found = model(blank, codes=True).codes
    return {name: _described(name, codes) for name, codes in found.items()}


def _described(name: str, codes: Codes) -> Site:
    k, varies = codes.indices.shape[-1], codes.ends is not None
    return Site(name, codes.codebook_size, k, codes.shared, codes.span, varies)


def checked(sites: Mapping[str, Site], codes: Iterable[Code]) -> list[Code]:
    """The same codes.

    Raises:
        UserError: If a site, level or code does not exist; names what does.
    """
    codes = list(codes)
    for name, level, code in codes:
        site = site_named(sites, name)
        if not 0 <= level < site.num_books:
            raise UserError(f"level={level}: {name} has {site.num_books} (0 is the first)")
        if not 0 <= code < site.codebook_size:
            raise UserError(f"code={code}: codes of {name} lie in [0, {site.codebook_size})")
    return codes


def fitting(codes: Iterable[Code], room: Mapping[str, int]) -> list[bool]:
    """Which codes find their book with room after those before them; `room` is of one book."""
    held: dict[tuple[str, int], int] = {}
    fits = []
    for site, level, _ in codes:
        held[site, level] = held.get((site, level), 0) + 1
        fits.append(held[site, level] <= room[site])
    return fits


def site_named(sites: Mapping[str, Site], name: str) -> Site:
    """The site.

    Raises:
        UserError: If there is none of this name; lists those there are.
    """
    if name not in sites:
        known = ", ".join(sites) or "none: nothing in this model is discrete"
        raise UserError(f"site={name}: there is no such site; valid: {known}")
    return sites[name]


def site_positions(codes: Codes, tokens: Int[Tensor, " n"]) -> Int[Tensor, "batch n"]:
    """The position of a site that covers each token, -1 where none is finished yet.

    In a pyramid, token t lies in position t // span, which reaches later logits only once its last
    token is read.
    """
    last = codes.last_tokens()
    if codes.mask is not None:  # padding repeats the end before it, and the first such place counts
        last = last.masked_fill(~codes.mask, -1).cummax(1).values
    wanted = tokens.to(last.device).expand(len(last), -1).contiguous()
    found = torch.searchsorted(last.contiguous(), wanted)
    return found.masked_fill(found >= last.shape[1], -1)
