from __future__ import annotations

import numpy as np
import pytest
import torch

from crystalline.contract import Codes
from crystalline.interpret.reading import SiteReading, read, read_inputs
from tests.tiny_models import Plain, RunningMean


def test_flat_tokens_and_spans_point_into_the_windows_they_came_from():
    windows = [torch.randint(257, (2, 5)), torch.randint(257, (1, 4))]
    reading = read(RunningMean(), windows)
    assert reading.tokens.tolist() == [*windows[0].flatten().tolist(), *windows[1][0].tolist()]
    assert np.flatnonzero(reading.window_start).tolist() == [0, 5, 10]
    choice, pairs = reading.sites["choice"], reading.sites["pairs"]
    assert choice.first.tolist() == choice.last.tolist() == list(range(14))
    assert pairs.first.tolist() == [0, 2, 5, 7, 10, 12]
    assert pairs.last.tolist() == [1, 3, 6, 8, 11, 13]


def test_segments_cover_the_tokens_since_the_end_before_and_padding_is_left_out():
    tokens = torch.tensor([[1, 3, 4, 5, 6], [1, 1, 1, 1, 1], [3, 1, 1, 1, 3]])
    site = read(RunningMean(), [tokens]).sites["segments"]
    assert list(zip(site.first.tolist(), site.last.tolist(), strict=True)) == [
        (0, 1),
        (2, 4),
        (10, 10),
        (11, 14),
    ]


class Led(RunningMean):
    """Padding stands in front, and says that it ends where the sequence does."""

    def _codes(self, tokens, x, edits):
        mask = torch.tensor([[False, True, True, False]])
        ends = torch.tensor([[9, 3, 6, 9]])
        return {"led": Codes(torch.zeros(1, 4, 1, dtype=torch.int64), 2, mask=mask, ends=ends)}


def test_padding_in_front_of_segments_ends_nothing():
    reading = read(Led(), [torch.randint(257, (1, 10))])
    site = reading.sites["led"]
    assert list(zip(site.first.tolist(), site.last.tolist(), strict=True)) == [(0, 3), (4, 6)]
    assert site.segments
    assert not read(RunningMean(), [torch.randint(257, (1, 10))]).sites["pairs"].segments


def test_a_shared_book_has_one_level_with_k_entries_a_position():
    site = read(RunningMean(), [torch.randint(257, (2, 5))]).sites["top"]
    codes, position = site.level(0)
    assert site.num_levels == 1
    assert codes.tolist() == site.indices.flatten().tolist()
    assert position.tolist() == [p for p in range(10) for _ in range(3)]


def test_modes_of_model_and_parts_are_the_same_after_reading_and_gradients_stay_on():
    model = RunningMean().train()
    model.pairs.eval()
    read(model, [torch.randint(257, (2, 5))])
    assert (model.training, model.dropout.training, model.pairs.training) == (True, True, False)
    assert torch.is_grad_enabled()


def test_an_error_inside_leaves_the_mode_as_it_was():
    model = RunningMean(context_length=4).train()
    with pytest.raises(ValueError, match="longer"):
        read(model, [torch.zeros(1, 9, dtype=torch.int64)])
    assert model.training


def test_inputs_are_those_that_the_sites_module_was_given():
    model, windows = RunningMean(), [torch.randint(257, (2, 5)), torch.randint(257, (3, 1))]
    found = read_inputs(model, windows, ("choice", "top", "pairs"))
    assert list(found) == ["choice", "pairs"]  # top is no module
    for site, inputs in found.items():
        indices = read(model, windows).sites[site].indices
        assert model.get_submodule(site)(inputs[None])[0].tolist() == indices.tolist()
    assert not model.choice._forward_pre_hooks


def test_models_without_codes_and_texts_without_tokens_give_no_sites():
    assert read(Plain(), [torch.randint(257, (2, 5))]).sites == {}
    empty = read(RunningMean(), [torch.zeros(0, 5, dtype=torch.int64)])
    assert (empty.sites, len(empty.tokens)) == ({}, 0)


def test_an_unused_slot_that_repeats_a_code_is_no_second_firing():
    indices = np.array([[3, 3, 1], [2, 0, 2]], dtype=np.int32)
    site = SiteReading(indices, np.arange(2), np.arange(2), 4, shared=True)
    codes, positions = site.level(0)
    assert codes.tolist() == [3, 1, 2, 0]
    assert positions.tolist() == [0, 0, 1, 1]
