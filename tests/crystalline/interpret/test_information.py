from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

from crystalline.interpret import information
from crystalline.interpret.information import (
    adjusted_mutual_information,
    conditional_information,
    contingency,
    entropy,
    mutual_information,
    normalized_mutual_information,
    purity,
)

labellings = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 7), min_size=n, max_size=n).map(np.array)] * 2)
)


@settings(max_examples=20, deadline=None)
@given(labellings)
def test_adjusted_and_normalized_information_equal_those_of_scikit_learn(pair):
    codes, labels = pair
    table = contingency(codes, labels)
    expected = adjusted_mutual_info_score(labels, codes)
    if len(set(codes.tolist())) == len(set(labels.tolist())) == 1:
        expected = 0.0  # scikit-learn calls two constants equal
    elif len(set(codes.tolist())) == len(set(labels.tolist())) == len(codes):
        expected = 0.0  # and likewise two lists in which nothing repeats
    assert adjusted_mutual_information(table) == pytest.approx(expected, abs=1e-9)
    if len(set(codes.tolist())) > 1 or len(set(labels.tolist())) > 1:
        assert normalized_mutual_information(table) == pytest.approx(
            normalized_mutual_info_score(labels, codes), abs=1e-9
        )


def test_expected_information_of_many_positions_equals_that_of_scikit_learn(monkeypatch):
    generator = np.random.default_rng(0)
    codes = generator.zipf(1.3, 20_000) % 300
    labels = generator.zipf(1.2, 20_000) % 900
    table = contingency(codes, labels)
    expected = expected_mutual_information(contingency_matrix(codes, labels, sparse=True), 20_000)
    ours = information.expected_mutual_information(table.row_sums, table.column_sums)
    assert ours == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(information, "_TERMS_AT_ONCE", 1000)
    in_parts = information.expected_mutual_information(table.row_sums, table.column_sums)
    assert in_parts == pytest.approx(ours, rel=1e-12)


def test_purity_is_the_share_of_each_codes_commonest_label():
    assert purity(contingency(np.array([0, 0, 0, 5, 5]), np.array([1, 1, 2, 3, 4]))) == 3 / 5


def test_a_code_that_copies_a_fair_bit_holds_one_bit():
    bits = np.array([0, 1] * 50)
    assert mutual_information(contingency(bits + 3, bits)) == pytest.approx(np.log(2))
    assert entropy(np.array([1, 1, 1, 1])) == pytest.approx(np.log(4))


def test_conditional_information_sees_an_exclusive_or_that_plain_information_misses():
    a = np.array([0, 0, 1, 1] * 10)
    b = np.array([0, 1, 0, 1] * 10)
    assert mutual_information(contingency(a, a ^ b)) == pytest.approx(0, abs=1e-12)
    assert conditional_information(a, a ^ b, given=b) == pytest.approx(np.log(2))


def test_no_positions_give_zeros():
    nothing = np.zeros(0, dtype=np.int64)
    table = contingency(nothing, nothing)
    assert (purity(table), mutual_information(table)) == (0.0, 0.0)
    assert (normalized_mutual_information(table), adjusted_mutual_information(table)) == (0.0, 0.0)
    assert conditional_information(nothing, nothing, nothing) == 0.0
