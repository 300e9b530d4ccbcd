"""Looking at single codes: where one fires, which ones a token has, which ones are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crystalline.errors import UserError
from crystalline.interpret.code_search import book_counts
from crystalline.interpret.reading import Reading, SiteReading
from crystalline.metrics.code_precision import Score
from crystalline.tokenizer import EOT, Tokenizer


@dataclass(frozen=True)
class Context:
    """A position where a code fires, in its window."""

    before: str
    text: str
    """What the position covers; special tokens as a line break."""
    after: str


@dataclass(frozen=True)
class TokenCode:
    """A code that fires on a token."""

    site: str
    level: int
    code: int
    score: Score
    """Precision: the token's share of the code's positions; recall: the code's share of the
    token's positions."""


def site_of(reading: Reading, site: str | None) -> tuple[str, SiteReading]:
    """The site with this name; of a model with a single one it may be left out.

    Raises:
        UserError: If there is no such site, or several to choose from.
    """
    names = ", ".join(reading.sites)
    if site is None and len(reading.sites) == 1:
        return next(iter(reading.sites.items()))
    if site not in reading.sites:
        raise UserError(f"site={site if site is not None else 'null'}: give one of {names}")
    return site, reading.sites[site]


def check_book(name: str, site: SiteReading, level: int, code: int) -> None:
    """Whether the code exists.

    Raises:
        UserError: If it does not.
    """
    if not 0 <= level < site.num_levels:
        raise UserError(f"level={level}: {name} has levels 0 to {site.num_levels - 1}")
    if not 0 <= code < site.codebook_size:
        raise UserError(f"code={code}: {name} has codes 0 to {site.codebook_size - 1}")


def firing_positions(site: SiteReading, level: int, code: int) -> np.ndarray:
    """Positions (A,) int64 where a code fires, each once, in order."""
    indices = site.indices if site.shared else site.indices[:, level : level + 1]
    return np.flatnonzero((indices == code).any(axis=1))


def contexts(
    reading: Reading,
    site: SiteReading,
    positions: np.ndarray,
    tokenizer: Tokenizer,
    *,
    number: int = 20,
    around: int = 8,
) -> list[Context]:
    """Some of `positions`, spread evenly, each with up to `around` tokens of its window beside."""
    shown = positions[np.linspace(0, len(positions) - 1, min(number, len(positions))).astype(int)]
    starts = np.flatnonzero(reading.window_start)
    bounds = np.append(starts, len(reading.tokens))
    found = []
    for position in shown.tolist():
        first, last = int(site.first[position]), int(site.last[position])
        window = int(np.searchsorted(starts, first, side="right")) - 1
        begin, end = int(bounds[window]), int(bounds[window + 1])
        spans = (
            (max(begin, first - around), first),
            (first, last + 1),
            (last + 1, min(end, last + 1 + around)),
        )
        found.append(Context(*(_text(reading.tokens[a:b], tokenizer) for a, b in spans)))
    return found


def token_id(tokenizer: Tokenizer, text: str) -> int:
    """The token that stands for `text`; `<|endoftext|>` is the special one.

    Raises:
        UserError: If it is none, or several.
    """
    if text == EOT:
        return tokenizer.eot_id
    try:
        ids = tokenizer.encode(text)
    except ValueError as error:
        raise UserError(f"token={text}: {error}; give a single token") from None
    if len(ids) != 1:
        pieces = ", ".join(repr(tokenizer.decode([token])) for token in ids) or "nothing"
        raise UserError(f"token={text}: not one token but {pieces}; give one of them")
    return ids[0]


def codes_of_token(reading: Reading, token: int, *, most: int = 5) -> list[TokenCode]:
    """For each book the codes that fire where a position's last token is `token`, commonest first.

    Of equally common ones the lowest index comes first.
    """
    found = []
    for name, site in reading.sites.items():
        here = reading.tokens[site.last] == token
        for level in range(site.num_levels):
            counts = book_counts(site, level, here, 2, np.ones_like(here))
            on_token = counts.joint[:, 1]
            order = on_token.argsort(descending=True, stable=True)[:most].tolist()
            found += [
                TokenCode(name, level, code, counts.score(code, 1))
                for code in order
                if on_token[code]
            ]
    return found


def similar_codes(
    codes: Float[Tensor, "codebook_size d"], code: int, *, most: int = 5
) -> list[tuple[int, float]]:
    """The other codes of a book of greatest cosine to one of them, with it."""
    directions = F.normalize(codes.detach().float(), dim=-1)
    cosines = directions @ directions[code]
    order = cosines.argsort(descending=True, stable=True).tolist()
    return [(other, float(cosines[other])) for other in order if other != code][:most]


def _text(tokens: np.ndarray, tokenizer: Tokenizer) -> str:
    pieces = (tokenizer.token_bytes(token) or b"\n" for token in tokens.tolist())
    return b"".join(pieces).decode(errors="replace")
