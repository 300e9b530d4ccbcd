"""Ends of segments against ends that were counted by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crystalline.interpret.reading import Reading
from crystalline.metrics.boundaries import (
    Boundaries,
    Intervals,
    agreement,
    boundaries,
    references,
    shares,
)
from crystalline.tokenizer import ByteTokenizer, Tokenizer
from tests.crystalline.interpret.planted import segmented


def of(windows: list[list[str]]) -> Boundaries:
    reading = segmented(windows, [0] * sum(not p.startswith("~") for w in windows for p in w))
    return boundaries(reading, reading.sites["s"], ByteTokenizer())


def marked(text: str, name: str, bpe: Tokenizer | None = None) -> str:
    """The text with `|` at places where something of this name ends, `<` to `>` if at any."""
    wanted = references(of([["~" + text]]), bpe)[name]
    marks: dict[int, str] = {}
    for first, last in zip(wanted.first.tolist(), wanted.last.tolist(), strict=True):
        marks |= {first: "|"} if first == last else {first: "<", last: ">"}
    shown = b"".join(
        marks.get(place, "").encode() + bytes([byte]) for place, byte in enumerate(text.encode())
    )
    return shown.decode()


def test_cuts_lie_between_segments_and_not_where_windows_meet():
    found = of([["ab", "c"], ["de", "fg", "~hi"]])
    assert found.text == b"abcdefghi"
    assert found.edges.tolist() == [0, 3, 9]
    assert found.cuts.tolist() == [2, 5, 7]  # the open end of the second window was cut off too


def test_documents_meet_at_a_special_token_which_has_no_bytes():
    reading = segmented([["ab", "cX", "de"]], [0, 0, 0])
    tokens = np.where(reading.tokens == ord("X"), 256, reading.tokens)
    reading = Reading(tokens, reading.window_start, reading.sites)
    found = boundaries(reading, reading.sites["s"], ByteTokenizer())
    assert found.text == b"abcde"
    assert found.edges.tolist() == [0, 3, 5]
    assert found.cuts.tolist() == [2]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("word_start", "it |isn't |10, (|so) |he |said"),
        ("word_end", "it| isn't| 10|, (so|) he| said"),
        ("clause_end", "one,< >two 3,4;< >(five:)<\n>six,"),
        ("sentence_end", 'It is 3.14.< >"Yes!”<  >No.'),
        ("line_end", "one<  \n\n >two<\n>three"),
        ("word_start", "né |ça"),
    ],
)
def test_known_ends_are_where_a_reader_sees_them(name, text):
    assert marked(re.sub(r"[|<>]", "", text), name) == text


class Pairs(ByteTokenizer):
    """Tokens of two characters, the last one perhaps of one."""

    def encode(self, text: str) -> list[int]:
        self.pieces = [text[i : i + 2].encode() for i in range(0, len(text), 2)]
        return list(range(len(self.pieces)))

    def token_bytes(self, token: int) -> bytes:
        return self.pieces[token]


def test_tokens_end_between_the_bytes_of_whole_characters():
    assert marked("abcde", "bpe", Pairs()) == "ab|cd|e"
    assert marked("ab cd  efg", "bpe", Pairs()) == "ab< >c|d<  >e|fg"  # a space goes to either
    cut = "éabc–".encode()[1:-1]  # a window begins and ends inside a character
    found = Boundaries(cut, np.array([0, len(cut)]), np.zeros(0, dtype=np.int64))
    assert references(found, Pairs())["bpe"].first.tolist() == [3]


def test_precision_recall_and_f1_by_hand():
    wanted = Intervals(np.array([2, 5, 9]), np.array([2, 7, 9]))
    assert agreement(np.array([2, 5, 6, 8]), wanted) == {
        "f1": 2 * 2 / (4 + 3),
        "precision": 2 / 4,  # 5 and 6 find the same end
        "recall": 2 / 3,
    }
    assert agreement(np.array([2, 7, 9]), wanted)["f1"] == 1
    nothing = agreement(np.zeros(0, dtype=np.int64), wanted)
    assert nothing == {"f1": 0, "precision": 0, "recall": 0}


def test_what_a_text_has_none_of_is_left_out():
    assert set(references(of([["one two"]]), None)) == {"word_start", "word_end"}


def test_shares_of_cuts_at_white_space_and_inside_characters():
    found = of([["a ", "b", " c", "d\n", "ef", "g", "h"]])
    assert shares(found) == {"after_space": 2 / 6, "before_space": 1 / 6, "inside_character": 0}
    whole = "aé"
    inside = Boundaries(whole.encode(), np.array([0, 3]), np.array([1, 2]))
    assert shares(inside)["inside_character"] == 1 / 2
    assert set(shares(of([["abc"]])).values()) == {0}


@given(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(0, 9),
)
def test_a_random_order_keeps_the_lengths_of_each_stretch(windows, seed):
    found = of([["x" * length for length in window] for window in windows])
    mixed = found.permuted(np.random.default_rng(seed))
    assert (mixed.text, mixed.edges.tolist()) == (found.text, found.edges.tolist())
    for start, stop in found.stretches():
        lengths = [
            sorted(np.diff([start, *cuts[(cuts > start) & (cuts < stop)], stop]).tolist())
            for cuts in (found.cuts, mixed.cuts)
        ]
        assert lengths[0] == lengths[1]


def test_orders_differ_by_seed_and_within_a_stretch():
    found = of([["a", "bb", "ccc", "dddd", "eeeee"]] * 3)
    orders = [found.permuted(np.random.default_rng(seed)).cuts.tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != found.cuts.tolist()
