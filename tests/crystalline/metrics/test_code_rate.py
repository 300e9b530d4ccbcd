"""Bits of codes against codes made by hand."""

import math

import pytest
import torch

from crystalline.contract import Codes
from crystalline.metrics.code_rate import CodeRate

SCORED = torch.ones(1, 8, dtype=torch.bool)


def rate(codes: Codes, scored: torch.Tensor = SCORED) -> dict[str, float]:
    found = CodeRate()
    found.update({"a": codes}, scored)
    return found.figures()


def one_a_position(*chosen: int) -> torch.Tensor:
    return torch.tensor(chosen)[None, :, None]


def test_one_code_takes_minus_log2_of_its_share():
    codes = Codes(one_a_position(0, 0, 0, 0, 1, 1, 2, 3), 16, shared=True)
    figures = rate(codes)
    by_hand = (4 * 1 + 2 * 2 + 1 * 3 + 1 * 3) / 8
    assert figures["code_bits"] == figures["code_bits/a"] == pytest.approx(by_hand)
    assert figures["code_bits_limit"] == 4


def test_levels_add_up_and_their_order_counts():
    indices = torch.stack([one_a_position(0, 1, 0, 1, 0, 1, 0, 1)[..., 0],
                           one_a_position(0, 0, 0, 0, 0, 0, 0, 0)[..., 0]], -1)  # fmt: skip
    figures = rate(Codes(indices, 4))
    assert figures["code_bits"] == pytest.approx(1)
    assert figures["code_bits_limit"] == pytest.approx(4)


def test_a_set_has_neither_order_nor_repetition():
    every = torch.combinations(torch.arange(4), 2)[None]  # all six sets, once each
    figures = rate(Codes(every, 4, shared=True), torch.ones(1, 6, dtype=torch.bool))
    assert figures["code_bits_limit"] == pytest.approx(math.log2(6))
    assert figures["code_bits"] == pytest.approx(math.log2(6))
    constant = torch.tensor([[[0, 1, 2]] * 8])
    assert rate(Codes(constant, 4, shared=True))["code_bits"] == pytest.approx(0, abs=1e-12)
    skewed = torch.tensor([[[0, 1]] * 7 + [[2, 3]]])
    pairs = (49 + 4 * 7 + 1) / 256
    by_hand = 2 * (7 / 8 * math.log2(16 / 7) + 1 / 8 * math.log2(16)) + math.log2(pairs)
    assert rate(Codes(skewed, 4, shared=True))["code_bits"] == pytest.approx(by_hand)


def test_the_length_of_a_set_bounds_its_entropy():
    torch.manual_seed(0)
    scores = torch.randn(1, 4000, 6) * torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    sets = scores.topk(3).indices
    kinds = sets.sort(-1).values.flatten(0, 1) @ torch.tensor([36, 6, 1])
    share = kinds.bincount().double() / 4000
    entropy = float(torch.special.entr(share).sum() / math.log(2))
    found = rate(Codes(sets, 6, shared=True), torch.ones(1, 4000, dtype=torch.bool))
    assert entropy <= found["code_bits"] <= found["code_bits_limit"] == math.log2(20)


def test_where_their_number_differs_it_is_said_first():
    indices = torch.tensor([[[0, 0], [1, 1], [2, 2], [3, 3], [0, 1], [2, 3], [0, 2], [1, 3]]])
    weights = torch.where(indices[..., :1] == indices, torch.tensor([1.0, 0.0]), 0.5)
    figures = rate(Codes(indices, 16, shared=True, weights=weights))
    by_hand = 1 + (2 + math.log2(6)) / 2  # one or two; each of four codes is as common
    assert figures["code_bits"] == pytest.approx(by_hand)
    assert figures["code_bits_limit"] == pytest.approx(math.log2(1 + 16 + 120))


def test_many_codes_a_position_neither_underflow_nor_overflow():
    indices = torch.arange(300).roll(1).expand(1, 8, 300).clone()
    figures = rate(Codes(indices, 600, shared=True))
    assert figures["code_bits"] == pytest.approx(0, abs=1e-6)
    assert figures["code_bits_limit"] == pytest.approx(math.log2(math.comb(600, 300)))


def test_a_site_of_two_tokens_a_position_counts_half():
    codes = Codes(one_a_position(0, 1, 0, 1), 8, span=2)
    figures = rate(codes)
    assert figures["code_bits"] == pytest.approx(0.5)
    assert figures["code_bits_limit"] == pytest.approx(1.5)


def test_batches_and_sites_add_up_and_unscored_positions_do_not_count():
    found = CodeRate()
    half = SCORED & (torch.arange(8) < 4)
    first = Codes(one_a_position(0, 0, 0, 0, 7, 7, 7, 7), 8, shared=True)
    second = Codes(one_a_position(1, 1, 1, 1, 7, 7, 7, 7), 8, shared=True)
    found.update({"a": first, "b": second}, half)
    found.update({"a": second, "b": first}, half)
    assert found.over_processes().figures() == pytest.approx(
        {"code_bits": 2.0, "code_bits/a": 1.0, "code_bits/b": 1.0, "code_bits_limit": 6.0}
    )


def test_without_sites_there_are_no_figures():
    found = CodeRate()
    found.update({}, SCORED)
    assert found.over_processes().figures() == {}
