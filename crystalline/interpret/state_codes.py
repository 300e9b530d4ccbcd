"""Codes of a machine's hidden states, against the truth (spec 9, automatic mode).

A state is known once its last digit is written: a *state code* fires on the last digit of one
state. A *state-plus-digit code* fires on the first digit of the next state after one given state
(Tamkin et al. 2023, arXiv:2310.17230, section 4). Codes are chosen on the first half of the
windows; every figure is of the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from crystalline.interpret.code_search import book_counts, first_half
from crystalline.interpret.information import (
    adjusted_mutual_information,
    contingency,
    entropy,
    mutual_information,
    purity,
)
from crystalline.interpret.labels import UNDEFINED
from crystalline.interpret.matching import assign
from crystalline.interpret.neurons import Neuron, NeuronControl
from crystalline.interpret.reading import Reading, SiteReading
from crystalline.metrics.code_precision import Counts, Score, summarise

MIN_RECALL = 0.5
"""Below this recall a code is no candidate."""


@dataclass(frozen=True)
class LabelCode:
    """A label and the code chosen for it."""

    label: int
    code: int
    """-1: no code had the recall."""
    chosen: Score
    reported: Score


@dataclass(frozen=True)
class BookLabels:
    """How well the codes of one book tell the labels."""

    site: str
    level: int
    chosen_precision: float
    """`code_precision` on the first half: by it the best book is chosen."""
    code_precision: float
    """Mean over labels of the chosen code's precision; 0 for a label without a code."""
    code_recall: float
    """The matching mean recall."""
    code_coverage: float
    """Share of labels whose code has precision >= 0.95 and recall >= 0.5."""
    code_found: float
    """Share of labels for which some code had recall >= 0.5 on the first half."""
    found_precision: float
    """Mean precision over those labels alone: what the paper's 97.1 % is about."""
    matched_accuracy: float
    """Share of positions where the code fires that is paired with their label, when each label is
    paired with a code of its own (Hungarian method, on the first half)."""
    ami: float
    """Adjusted mutual information of code and label."""
    purity: float
    """Share of firings that carry their code's commonest label: active codes, by count."""
    majority: float
    """That purity if all codes were one: the share of the commonest label."""
    shuffled_purity: float
    """That purity with labels shuffled among the positions: chance for as many codes."""
    codes_per_label: float
    """exp H(code | label): codes that share a label's positions, as an effective number."""
    codes: tuple[LabelCode, ...]


def state_labels(states: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """The state (N,) at its last digit, `UNDEFINED` elsewhere.

    Args:
        states: (N,) the state that each token belongs to; -1 at special tokens.
        phases: (N,) which digit of its state it is; -1 at special tokens.
    """
    return np.where(phases == phases.max(), states, UNDEFINED)


def pair_labels(
    states: np.ndarray, phases: np.ndarray, tokens: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """At first digits, which (state before, digit) it is, `UNDEFINED` elsewhere.

    Returns:
        Labels (N,) and the pairs that they number, in order.
    """
    known = np.zeros(len(states), dtype=bool)
    known[1:] = (phases[1:] == 0) & (phases[:-1] == phases.max())
    before = np.roll(states, 1)
    pairs = np.stack([before[known], tokens[known]], axis=1)
    different, numbers = np.unique(pairs, axis=0, return_inverse=True)
    labels = np.full(len(states), UNDEFINED)
    labels[known] = numbers.reshape(-1)
    return labels, [(int(state), int(digit)) for state, digit in different]


def label_codes(
    reading: Reading, labels: np.ndarray, num_labels: int, *, seed: int = 0
) -> list[BookLabels]:
    """Every book's codes for labels of tokens (N,); sites without a labelled position are left out.

    A position has the label of its last token. `seed` shuffles labels for the baseline.
    """
    half = first_half(reading)
    return [
        _book(name, site, level, labels[site.last], num_labels, half[site.last], seed)
        for name, site in reading.sites.items()
        if (labels[site.last] != UNDEFINED).any()
        for level in range(site.num_levels)
    ]


def code_matrix(
    reading: Reading, labels: np.ndarray, num_labels: int, book: BookLabels
) -> tuple[Float[np.ndarray, "labels codes"], list[int]]:
    """Which share of each label's positions (second half) has each code of a book.

    Codes that are paired with a label by `_pairs` stand in the order of labels, so that pairs lie
    on the diagonal; those left over follow by falling count. Codes that never fire are left out.

    Returns:
        The matrix, NaN in rows of labels without a position, and the codes of its columns.
    """
    site, half = reading.sites[book.site], first_half(reading)
    own, first = labels[site.last], half[site.last]
    pairs = _pairs(book_counts(site, book.level, own, num_labels, first))
    counts = book_counts(site, book.level, own, num_labels, ~first)
    joint = counts.joint.numpy()
    paired = [int(code) for code in pairs if code >= 0]
    others = np.argsort(-joint.sum(1), kind="stable").tolist()
    codes = paired + [code for code in others if joint[code].any() and code not in set(paired)]
    wanted = counts.wanted.numpy().astype(float)
    with np.errstate(invalid="ignore"):
        return joint[codes].T / np.where(wanted > 0, wanted, np.nan)[:, None], codes


def best_book(books: list[BookLabels]) -> BookLabels:
    """That of the highest precision on the first half, the first one of equals."""
    return max(books, key=lambda book: book.chosen_precision)


def label_neurons(
    reading: Reading,
    labels: np.ndarray,
    book: BookLabels,
    control: Callable[[np.ndarray, np.ndarray], NeuronControl | None],
) -> list[Neuron | None] | None:
    """For each label of `book` the best neuron at its code's recall, or at `MIN_RECALL` without.

    Args:
        reading: What was read.
        labels: As in `label_codes`.
        book: Its site is the one whose neurons are asked.
        control: `control(kept, first)`: the neurons of the site at its positions `kept` (P,) bool,
            of which `first` choose; None if the site has none.

    Returns:
        None for labels that the first half lacks; None altogether if `control` gave None.
    """
    site = reading.sites[book.site]
    own = labels[site.last]
    kept = own != UNDEFINED
    neurons = control(kept, first_half(reading)[site.last][kept])
    if neurons is None:
        return None
    return [
        neurons.best(own[kept] == code.label, code.chosen.hits or _needed(code.chosen.wanted))
        if code.chosen.wanted
        else None
        for code in book.codes
    ]


def neuron_figures(book: BookLabels, neurons: list[Neuron | None]) -> dict[str, float]:
    """Mean precision of neurons beside that of codes, over the same labels.

    `neuron_precision` over all labels, 0 without a neuron; `neuron_found_precision` over those that
    have a code, at its recall.
    """
    pairs = [
        (code.code >= 0, neuron.reported.precision if neuron else 0.0)
        for code, neuron in zip(book.codes, neurons, strict=True)
        if code.reported.wanted
    ]
    found = [precision for has_code, precision in pairs if has_code]
    return {
        "neuron_precision": sum(precision for _, precision in pairs) / max(len(pairs), 1),
        "neuron_found_precision": sum(found) / max(len(found), 1),
    }


def figures(book: BookLabels) -> dict[str, Any]:
    """The book's figures without its codes."""
    values = asdict(book)
    del values["codes"]
    return values


def _needed(wanted: int) -> int:
    return math.ceil(MIN_RECALL * wanted)


def _book(
    name: str,
    site: SiteReading,
    level: int,
    labels: np.ndarray,
    num_labels: int,
    first: np.ndarray,
    seed: int,
) -> BookLabels:
    """One book; labels (P,) and half (P,) bool of its positions."""
    chosen = book_counts(site, level, labels, num_labels, first)
    reported = book_counts(site, level, labels, num_labels, ~first)
    best = chosen.best_codes(MIN_RECALL)
    means = {key: float(value) for key, value in summarise(reported, best, MIN_RECALL).items()}
    codes, position = site.level(level)
    kept = (~first & (labels != UNDEFINED))[position]
    fired, truth = codes[kept], labels[position][kept]
    shuffled = np.random.default_rng(seed).permutation(truth)
    table = contingency(fired, truth)
    return BookLabels(
        name,
        level,
        float(summarise(chosen, best, MIN_RECALL)["code_precision"]),
        **means,
        matched_accuracy=_matched_accuracy(chosen, reported),
        ami=adjusted_mutual_information(table),
        purity=purity(table),
        majority=float(table.column_sums.max(initial=0) / max(table.total, 1)),
        shuffled_purity=purity(contingency(fired, shuffled)),
        codes_per_label=math.exp(entropy(table.row_sums) - mutual_information(table)),
        codes=tuple(
            LabelCode(label, code, chosen.score(code, label), reported.score(code, label))
            for label, code in enumerate(best.tolist())
        ),
    )


def _pairs(chosen: Counts) -> Int[np.ndarray, " labels"]:
    """The code that each label is paired with, none twice (Hungarian method); -1 for none."""
    active = chosen.fired.nonzero()[:, 0].numpy()
    columns = assign(chosen.joint.numpy()[active].T.astype(float))
    codes = np.full(len(columns), -1)
    codes[columns >= 0] = active[columns[columns >= 0]]
    return codes


def _matched_accuracy(chosen: Counts, reported: Counts) -> float:
    codes = _pairs(chosen)
    labels = np.flatnonzero(codes >= 0)
    hits = reported.joint.numpy()[codes[labels], labels].sum()
    return float(hits / max(int(reported.wanted.sum()), 1))
