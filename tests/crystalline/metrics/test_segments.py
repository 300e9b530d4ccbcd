"""Figures of segments against figures that were counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from crystalline.interpret.reading import Reading
from crystalline.metrics.boundaries import boundaries
from crystalline.metrics.segments import (
    ends,
    lengths,
    segment_figures,
    site_strings,
    string_figures,
)
from crystalline.tokenizer import ByteTokenizer
from tests.crystalline.interpret.planted import segmented, site_of


def test_lengths_are_in_bytes_and_tokens_and_special_tokens_have_none():
    reading = segmented([["é", "abc", "X", "d"], ["abcd", "~e"]], [0] * 5)
    tokens = np.where(reading.tokens == ord("X"), 256, reading.tokens)
    reading = Reading(tokens, reading.window_start, reading.sites)
    assert lengths(reading, reading.sites["s"], ByteTokenizer()) == {
        "segments": 5,
        "per_sequence": 2.5,
        "single_byte": 1 / 4,
        "bytes_mean": 10 / 4,
        "bytes_median": 2.5,
        "bytes_p95": pytest.approx(3.85),
        "bytes_max": 4,
        "tokens_mean": 10 / 4,
        "tokens_median": 2.5,
        "tokens_p95": pytest.approx(3.85),
        "tokens_max": 4,
    }


class Words(ByteTokenizer):
    """Two words, and the special token."""

    def token_bytes(self, token: int) -> bytes:
        return [b"one ", b"three "][token] if token < 2 else b""


def test_bytes_of_tokens_are_those_of_their_text():
    reading = segmented([["ab", "c"]], [0, 0])
    reading = Reading(np.array([0, 1, 1]), reading.window_start, reading.sites)
    found = lengths(reading, reading.sites["s"], Words())
    assert (found["bytes_mean"], found["tokens_mean"]) == (8, 1.5)
    assert boundaries(reading, reading.sites["s"], Words()).cuts.tolist() == [10]


def test_segments_that_are_words_are_found_and_chance_is_not():
    words = ["one ", "three ", "eleven ", "a ", "of ", "seventeen ", "it "]
    reading = segmented([words, words[::-1]], [0] * 14)
    found = ends(boundaries(reading, reading.sites["s"], ByteTokenizer()), None, draws=50, seed=0)
    assert found["word_start_f1"] == found["word_start_recall"] == found["after_space"] == 1
    assert found["word_end_f1"] == found["before_space"] == 0
    assert 0 < found["word_start_f1_chance"] < 0.6
    assert found["after_space_chance"] == pytest.approx(found["word_start_f1_chance"])
    assert "bpe_f1" not in found
    whole = ends(boundaries(reading, reading.sites["s"], ByteTokenizer()), ByteTokenizer(), 5, 0)
    places = 2 * (len("".join(words)) - 1 - 6)  # both sides of a space are one end
    assert whole["bpe_recall"] == pytest.approx(12 / places)
    assert whole["bpe_precision"] == 1


def test_purity_entropies_and_information_by_hand():
    codes, strings = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 1, 2, 2, 2, 2])
    found = string_figures(codes, strings)
    chance = found.pop("mutual_bits_chance")
    assert found == {
        "purity": 6 / 8,
        "code_bits": pytest.approx(1),
        "string_bits": pytest.approx(1.5),
        "mutual_bits": pytest.approx(1),
        "string_bits_given_code": pytest.approx(0.5),
        "code_bits_given_string": pytest.approx(0, abs=1e-12),
    }
    assert 0 < chance < 1
    alone = string_figures(np.zeros(4, dtype=int), np.arange(4))
    assert alone["purity"] == 1 / 4
    assert alone["string_bits_given_code"] == pytest.approx(2)
    assert alone["mutual_bits"] == alone["mutual_bits_chance"] == 0


def test_levels_make_one_code_together():
    reading = segmented([["ab", "c", "ab", "c"]], [[0, 0], [0, 1], [0, 0], [0, 1]])
    found = string_figures(*site_strings(reading, reading.sites["s"], ByteTokenizer()))
    assert (found["purity"], found["mutual_bits"]) == (1, pytest.approx(1))


def test_only_sites_with_segments_have_figures():
    reading = segmented([["ab", "c"]], [0, 1])
    reading.sites["fixed"] = site_of([0, 1, 2])
    assert list(segment_figures(reading, ByteTokenizer(), None, draws=1, seed=0)) == ["s"]
