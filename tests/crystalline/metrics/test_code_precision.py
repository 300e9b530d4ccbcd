import numpy as np
import pytest
import torch

from crystalline.metrics.code_precision import CodePrecision, Score, count, summarise

CODES = torch.tensor([[1, 1], [1, 2], [0, 2], [3, 3], [0, 1]])
LABELS = torch.tensor([0, 0, 1, 1, -1])


def test_counts_are_those_of_a_loop_and_a_repeated_code_counts_once():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(5, (300, 3), generator=generator)
    labels = torch.randint(-1, 4, (300,), generator=generator)
    counts = count(codes, labels, 5, 4)
    for code in range(5):
        for label in range(4):
            fires = (codes == code).any(1) & (labels == label)
            assert counts.joint[code, label] == fires.sum()
    assert counts.wanted.tolist() == [int((labels == label).sum()) for label in range(4)]
    assert counts.fired.tolist() == [
        int(((codes == code).any(1) & (labels >= 0)).sum()) for code in range(5)
    ]


def test_precision_and_recall_are_shares_of_firings_and_of_labels():
    counts = count(CODES, LABELS, 4, 2)
    assert counts.score(1, 0) == Score(1.0, 1.0, 2, 2, 2)
    assert counts.score(2, 0) == Score(0.5, 0.5, 1, 2, 2)
    assert counts.score(0, 1) == Score(1.0, 0.5, 1, 1, 2)
    assert counts.score(-1, 1) == Score(0.0, 0.0, 0, 0, 2)
    assert counts.precision[:, 0].tolist() == [0, 1, 0.5, 0]
    assert counts.recall[:, 1].tolist() == [0.5, 0, 0.5, 0.5]


def test_the_best_code_is_precise_then_finds_much_then_comes_first():
    joint = [[2, 0], [4, 0], [4, 0], [0, 5], [0, 1]]
    codes = [code for code, row in enumerate(joint) for n in row for _ in range(n)]
    labels = [label for row in joint for label, n in enumerate(row) for _ in range(n)]
    counts = count(torch.tensor(codes)[:, None], torch.tensor(labels), 5, 2)
    assert counts.best_codes(0.2).tolist() == [1, 3]
    assert counts.best_codes(0.5).tolist() == [-1, 3]
    assert counts.best_codes(0.0).tolist() == [1, 3]  # a code that never fires is no candidate


def test_a_label_without_a_code_counts_as_zero_and_one_that_never_occurs_not_at_all():
    # Label 0: code 0, always; label 1: three codes of a third each; label 2 does not occur.
    codes = torch.tensor([0, 0, 1, 2, 3])[:, None]
    metric = CodePrecision(4, 3)
    metric.update(codes, torch.tensor([0, 0, 1, 1, 1]))
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found == {
        "code_precision": 0.5,
        "code_recall": 0.5,
        "code_coverage": 0.5,
        "code_found": 0.5,
        "found_precision": 1.0,
    }


def test_batches_and_ranks_sum_to_the_whole():
    parts = [CodePrecision(4, 2, min_recall=0.3) for _ in range(3)]
    whole = CodePrecision(4, 2, min_recall=0.3)
    whole.update(CODES, LABELS)
    for part, rows in zip(parts, ([0, 1], [2], [3, 4]), strict=True):
        part.update(CODES[rows], LABELS[rows])
    first = parts[0]
    for name in ("joint", "wanted"):
        pieces = torch.stack([getattr(part, name) for part in parts])
        setattr(first, name, first._reductions[name](pieces))  # what torchmetrics does over ranks
    assert first.joint.tolist() == whole.joint.tolist()
    assert first.compute() == whole.compute()


def test_codes_chosen_elsewhere_are_scored_as_they_are():
    counts = count(torch.tensor([[0], [1], [1], [1]]), torch.tensor([0, 0, 1, 1]), 2, 2)
    found = summarise(counts, torch.tensor([1, 1]), 0.5)
    assert float(found["code_precision"]) == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert float(found["code_recall"]) == np.mean([0.5, 1.0])
    assert float(found["code_coverage"]) == 0
