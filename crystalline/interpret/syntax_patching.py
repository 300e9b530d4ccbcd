"""Experiment E5 (d): put the codes of a syntactic place elsewhere; does what follows it follow?

A pattern marks places, such as the end of a sentence. The codes that tell these places best are put
where the pattern marks nothing; what is measured is the probability of the tokens that typically
follow a marked place. Codes and tokens are chosen on the first half of the windows, effects are
measured on the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crystalline.contract import Edits, LanguageModel
from crystalline.eval_mode import evaluating
from crystalline.interpret.code_search import book_counts, first_half
from crystalline.interpret.information import adjusted_mutual_information, contingency
from crystalline.interpret.interventions import activate, merge
from crystalline.interpret.reading import Reading, SiteReading
from crystalline.interpret.sites import Code, find_sites

LIFT = 3.0
"""A follower is at least so many times more frequent after a marked place than after others."""
FOLLOWS = 0.005
"""And this share of what follows marked places."""


@dataclass(frozen=True)
class SyntaxCode:
    """A code that tells marked places."""

    site: str
    level: int
    code: int
    ami: float
    """Adjusted mutual information of "it fires" and "marked", on the second half."""


@dataclass(frozen=True)
class SyntaxShift:
    """Mean probability of the followers, on the second half."""

    codes: tuple[SyntaxCode, ...]
    followers: tuple[int, ...]
    """Token ids."""
    natural: float
    """After marked places."""
    before: float
    """After unmarked ones."""
    patched: float
    """After the same, with the codes put there."""
    control: float
    """With codes in their stead that some other unmarked place has at the same sites."""
    places: int
    """Unmarked places that were patched."""

    @property
    def ratio(self) -> float:
        """`patched` / `before`."""
        return self.patched / self.before


def syntax_shift(
    model: LanguageModel,
    reading: Reading,
    marked: Bool[np.ndarray, " tokens"],
    *,
    num_codes: int,
    places: int,
    seed: int,
    batch_size: int = 64,
) -> SyntaxShift | None:
    """What putting the codes of marked places elsewhere does.

    Args:
        model: Its mode is the same afterwards.
        reading: What it chose on windows of one length. Sites whose positions are not single tokens
            are left out.
        marked: (N,) the places.
        num_codes: Codes that are put together, one of each book at most.
        places: Unmarked places that are patched, one a window at a time.
        seed: Of the places and of the control's codes.
        batch_size: Windows at a time.

    Returns:
        None if nothing typically follows marked places, no code tells them, or a half has none.
    """
    half = first_half(reading)
    followers = _followers(reading, marked, half)
    codes = syntax_codes(reading, marked, half, num_codes)
    windows = reading.tokens.reshape(int(reading.window_start.sum()), -1)
    on, second = marked.reshape(windows.shape), ~half.reshape(windows.shape)[:, 0]
    if not (len(followers) and codes and on[second].any() and not on[second].all()):
        return None
    random = np.random.default_rng(seed)
    rows = random.choice(np.flatnonzero(second & ~on.all(1)), places)
    columns = np.array([random.choice(np.flatnonzero(~on[row])) for row in rows])
    chosen = [Code(code.site, code.level, code.code) for code in codes]
    others = _others(reading, chosen, ~marked & ~half, random)
    measure = _Measure(model, torch.from_numpy(followers))
    texts = torch.from_numpy(windows)
    sums = torch.zeros(3, dtype=torch.float64)
    for part in np.array_split(np.arange(places), -(-places // batch_size)):
        tokens, at = texts[rows[part]], torch.from_numpy(columns[part])[:, None]
        for index, held in enumerate((None, chosen, others)):
            sums[index] += measure(tokens, held, at).double().sum()
    before, patched, control = (sums / places).tolist()
    natural = _natural(measure, texts[torch.from_numpy(second)], on[second], batch_size)
    return SyntaxShift(
        codes, tuple(followers.tolist()), natural, before, patched, control, places
    )  # fmt: skip


def syntax_codes(
    reading: Reading,
    marked: Bool[np.ndarray, " tokens"],
    half: Bool[np.ndarray, " tokens"],
    most: int,
) -> tuple[SyntaxCode, ...]:
    """Of each book the code whose firing tells most about `marked`, the most telling ones first."""
    found: list[tuple[float, SyntaxCode]] = []
    for name, site in reading.sites.items():
        if site.segments or (site.first != site.last).any():
            continue
        own, first = marked[site.last], half[site.last]
        for level in range(site.num_levels):
            counts = book_counts(site, level, own, 2, first)
            information = _information(counts.joint.double(), counts.wanted.double())
            best = int(information.argmax())
            if information[best] > 0:
                fires = _fires(site, level, best)[~first].astype(int)
                ami = adjusted_mutual_information(contingency(fires, own[~first].astype(int)))
                found.append((float(information[best]), SyntaxCode(name, level, best, ami)))
    found.sort(key=lambda each: -each[0])
    return tuple(code for _, code in found[:most])


class _Measure:
    """The followers' probability under edits."""

    def __init__(self, model: LanguageModel, followers: Int[Tensor, " n"]) -> None:
        self.model = model
        self.sites = find_sites(model)
        self.device = next(model.parameters()).device
        self.followers = followers.to(self.device)

    def __call__(
        self, tokens: Int[Tensor, "batch pos"], held: list[Code] | None, at: Int[Tensor, "batch 1"]
    ) -> Float[Tensor, " batch"]:
        """At one place of each row; `held` codes are put into all slots there."""
        edits = merge(*(self._put(code, at) for code in held or []))
        return self.everywhere(tokens, edits).gather(1, at)[:, 0]

    def _put(self, code: Code, at: Int[Tensor, "batch 1"]) -> Edits:
        site = self.sites[code.site]
        return {site.name: activate(site, code.code, None if site.shared else (code.level,), at)}

    def everywhere(
        self, tokens: Int[Tensor, "batch pos"], edits: Edits | None = None
    ) -> Float[Tensor, "batch pos"]:
        """On the CPU."""
        with evaluating(self.model):
            logits = self.model(tokens.to(self.device), edits=edits).logits
        return logits.float().softmax(-1)[..., self.followers].sum(-1).cpu()


def _natural(measure: _Measure, texts: Tensor, on: np.ndarray, batch_size: int) -> float:
    total, count = 0.0, 0
    for tokens, where in zip(
        texts.split(batch_size), torch.from_numpy(on).split(batch_size), strict=True
    ):
        mass = measure.everywhere(tokens)[where]
        total, count = total + float(mass.double().sum()), count + len(mass)
    return total / count


def _followers(reading: Reading, marked: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Tokens that typically follow marked places of the first half."""
    same = half[:-1] & ~reading.window_start[1:]
    after = reading.tokens[1:]
    size = int(reading.tokens.max()) + 1
    there = np.bincount(after[same & marked[:-1]], minlength=size)
    elsewhere = np.bincount(after[same & ~marked[:-1]], minlength=size)
    if not there.sum() or not elsewhere.sum():
        return np.zeros(0, dtype=np.int64)
    share, other = there / there.sum(), elsewhere / elsewhere.sum()
    return np.flatnonzero((share >= FOLLOWS) & (share >= LIFT * other))


def _information(
    joint: Float[Tensor, "codes 2"], wanted: Float[Tensor, " 2"]
) -> Float[Tensor, " codes"]:
    """In nats, of each code's firing and the label; negative where it tells the label's absence."""
    total = wanted.sum()
    table = torch.stack([joint, wanted - joint], 1) / total  # code, fires or not, label
    of_code, of_label = table.sum(2, keepdim=True), table.sum(1, keepdim=True)
    ratio = table / (of_code * of_label).clamp_min(torch.finfo(table.dtype).tiny)
    information = torch.special.xlogy(table, ratio.clamp_min(1e-300)).sum((1, 2))
    return torch.where(joint[:, 1] * total > joint.sum(1) * wanted[1], information, -information)


def _fires(site: SiteReading, level: int, code: int) -> np.ndarray:
    indices = site.indices if site.shared else site.indices[:, level : level + 1]
    return (indices == code).any(1)


def _others(
    reading: Reading, codes: list[Code], where: np.ndarray, random: np.random.Generator
) -> list[Code]:
    """For each code one that its book has at a place of `where`, drawn at random."""
    drawn: list[Code] = []
    for name, level, _ in codes:
        site = reading.sites[name]
        row = random.choice(np.flatnonzero(where[site.last]))
        indices = site.indices[row] if site.shared else site.indices[row, level : level + 1]
        drawn.append(Code(name, level, int(random.choice(indices))))
    return drawn
