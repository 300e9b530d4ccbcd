"""Long texts in windows: every token once, as lm_eval cuts them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalline.harness.windows import Window, batched, windows


def scored(found: list[Window]) -> list[int]:
    return [target for window in found for target in window.targets if target != -100]


@given(length=st.integers(1, 60), context=st.integers(4, 20), alignment=st.sampled_from([1, 2, 4]))
def test_every_token_is_scored_once_after_the_tokens_before_it(length, context, alignment):
    tokens = list(range(length))
    found = windows(tokens, 1, context, alignment)
    assert scored(found) == tokens[1:]
    for window in found:
        assert 0 < len(window.inputs) == len(window.targets) <= context
        assert window.inputs[0] % alignment == 0
        for read, target in zip(window.inputs, window.targets, strict=True):
            assert target in (read + 1, -100)


@given(length=st.integers(1, 60), context=st.integers(1, 20))
def test_whole_texts_are_cut_as_lm_eval_cuts_them(length, context):
    utils = pytest.importorskip("lm_eval.utils", reason="needs the extra harness")
    tokens = list(range(length))
    theirs = [
        utils.make_disjoint_window(pair)
        for pair in utils.get_rolling_token_windows(tokens, 99, context, 1)
    ]
    for ours, (before, after) in zip(windows([99, *tokens], 1, context), theirs, strict=True):
        assert ours.inputs == (before + after)[:-1]
        assert scored([ours]) == after


def test_a_context_that_is_too_long_loses_its_beginning():
    [window] = windows(list(range(30)), 27, 10)
    assert window.inputs == list(range(19, 29))
    assert scored([window]) == [27, 28, 29]


def test_a_continuation_longer_than_the_window_is_scored_in_several():
    found = windows(list(range(30)), 5, 10)
    assert scored(found) == list(range(5, 30))
    assert all(len(window.inputs) == 10 for window in found)


def test_shorter_rows_are_filled_on_the_right_and_not_scored():
    inputs, targets = batched([Window([1, 2, 3], [2, 3, 4]), Window([7], [8])], padding=9)
    assert torch.equal(inputs, torch.tensor([[1, 2, 3], [7, 9, 9]]))
    assert torch.equal(targets, torch.tensor([[2, 3, 4], [8, -100, -100]]))
