"""How well single codes tell labels: precision and recall, best codes, coverage (spec 6 and 9).

A code says "label y" at the positions where it fires. Of those it is right about a share, its
precision; of all positions with that label it finds a share, its recall (Tamkin et al. 2023,
arXiv:2310.17230, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

COVERED_PRECISION = 0.95
"""A label is covered by a code of this precision and `min_recall`."""


@dataclass(frozen=True)
class Score:
    """How well something that fires tells some positions from the rest."""

    precision: float
    """hits / fired; 0 where it never fires."""
    recall: float
    """hits / wanted; 0 where nothing is wanted."""
    hits: int
    fired: int
    wanted: int

    @classmethod
    def of(cls, hits: int, fired: int, wanted: int) -> Score:
        return cls(hits / max(fired, 1), hits / max(wanted, 1), hits, fired, wanted)


class Counts(NamedTuple):
    """How often the K codes of one book fire at positions of each of L labels."""

    joint: Int[Tensor, "codebook_size labels"]
    """int64 positions where the code fires; one where k slots repeat it still counts once."""
    wanted: Int[Tensor, " labels"]
    """int64 positions with the label."""

    @property
    def fired(self) -> Int[Tensor, " codebook_size"]:
        """Positions, of any label, where each code fires."""
        return self.joint.sum(1)

    @property
    def precision(self) -> Float[Tensor, "codebook_size labels"]:
        """float64; 0 for codes that never fire."""
        return self.joint.double() / self.fired.clamp(min=1)[:, None]

    @property
    def recall(self) -> Float[Tensor, "codebook_size labels"]:
        """float64; 0 for labels that no position has."""
        return self.joint.double() / self.wanted.clamp(min=1)

    def best_codes(self, min_recall: float) -> Int[Tensor, " labels"]:
        """For each label the most precise code of at least this recall; -1 if there is none.

        Of equally precise ones that of higher recall, then that of lower index.
        """
        recall = self.recall
        allowed = (recall >= min_recall) & (self.joint > 0)
        precision = self.precision.masked_fill(~allowed, -1)
        top = precision.amax(0)
        best = recall.masked_fill(precision < top, -1).argmax(0)  # argmax takes the first of equals
        return torch.where(top < 0, -1, best)

    def score(self, code: int, label: int) -> Score:
        """One code as a sign of one label; code -1 fires nowhere."""
        hits = int(self.joint[code, label]) if code >= 0 else 0
        fired = int(self.joint[code].sum()) if code >= 0 else 0
        return Score.of(hits, fired, int(self.wanted[label]))


def count(
    codes: Int[Tensor, "positions k"],
    labels: Int[Tensor, " positions"],
    codebook_size: int,
    num_labels: int,
) -> Counts:
    """Count the codes of one book at positions with labels.

    Args:
        codes: The k codes that each position took from the book, in [0, codebook_size).
        labels: In [0, num_labels), or -1 at positions that are left out.
        codebook_size: K.
        num_labels: L.
    """
    known = labels >= 0
    codes, labels = codes[known].long().sort(dim=1).values, labels[known].long()
    new = torch.ones_like(codes, dtype=torch.bool)
    new[:, 1:] = codes[:, 1:] != codes[:, :-1]
    cells = (codes * num_labels + labels[:, None])[new]
    joint = torch.bincount(cells, minlength=codebook_size * num_labels)
    return Counts(
        joint.view(codebook_size, num_labels), torch.bincount(labels, minlength=num_labels)
    )


class CodePrecision(Metric):
    """Precision, recall and coverage of the best code of each label, over all batches and ranks.

    Codes are chosen and scored on the same positions, which flatters rare labels; for a choice on
    other data, `count` both halves and score the one's `best_codes` on the other.

    Args:
        codebook_size: K.
        num_labels: L.
        min_recall: Below this recall a code is no candidate.
    """

    full_state_update = False
    joint: Tensor
    wanted: Tensor

    def __init__(self, codebook_size: int, num_labels: int, min_recall: float = 0.5) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.num_labels = num_labels
        self.min_recall = min_recall
        joint = torch.zeros(codebook_size, num_labels, dtype=torch.int64)
        self.add_state("joint", joint, dist_reduce_fx="sum")
        self.add_state("wanted", torch.zeros(num_labels, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, codes: Int[Tensor, "positions k"], labels: Int[Tensor, " positions"]) -> None:
        """Add positions; see `count`."""
        counts = count(codes, labels, self.codebook_size, self.num_labels)
        self.joint += counts.joint
        self.wanted += counts.wanted

    def compute(self) -> dict[str, Tensor]:
        """The figures of `summarise`."""
        counts = Counts(self.joint, self.wanted)
        return summarise(counts, counts.best_codes(self.min_recall), self.min_recall)


def summarise(
    counts: Counts, codes: Int[Tensor, " labels"], min_recall: float
) -> dict[str, Tensor]:
    """Means over the labels that occur, float64 scalars; NaN if none does.

    `code_precision` and `code_recall` are those of the labels' codes, 0 for a label without one (so
    that a model is not praised for the few it knows). `code_coverage` is the share of labels whose
    code has `COVERED_PRECISION` and `min_recall`, `code_found` the share that has a code, and
    `found_precision` the mean precision of those alone (0 if there is none).
    """
    labels = torch.arange(len(codes), device=codes.device)
    occurs = counts.wanted > 0
    has_code = (codes >= 0)[occurs]
    precision = counts.precision[codes, labels][occurs] * has_code
    recall = counts.recall[codes, labels][occurs] * has_code
    covered = (precision >= COVERED_PRECISION) & (recall >= min_recall)
    return {
        "code_precision": precision.mean(),
        "code_recall": recall.mean(),
        "code_coverage": covered.double().mean(),
        "code_found": has_code.double().mean(),
        "found_precision": precision.sum() / has_code.sum().clamp(min=1),
    }
