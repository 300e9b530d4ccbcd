import numpy as np
import pytest
import torch

from crystalline.errors import UserError
from crystalline.interpret.code_views import (
    Context,
    TokenCode,
    check_book,
    codes_of_token,
    contexts,
    firing_positions,
    similar_codes,
    site_of,
    token_id,
)
from crystalline.metrics.code_precision import Score
from crystalline.tokenizer import ByteTokenizer, DigitTokenizer
from tests.crystalline.interpret import planted


def test_a_code_fires_once_at_a_position_in_its_own_level_alone():
    levels = planted.site_of([[1, 0], [0, 1], [1, 1]])
    assert firing_positions(levels, 0, 1).tolist() == [0, 2]
    assert firing_positions(levels, 1, 1).tolist() == [1, 2]
    shared = planted.site_of([[1, 1], [0, 1], [2, 0]], shared=True)
    assert firing_positions(shared, 0, 1).tolist() == [0, 1]


def test_contexts_stay_inside_their_window():
    reading = planted.reading_of(["abcdef", "ghij"], pairs=planted.site_of([0] * 5, span=2))
    found = contexts(
        reading, reading.sites["pairs"], np.array([0, 2, 3]), ByteTokenizer(), around=3
    )
    assert found == [Context("", "ab", "cde"), Context("bcd", "ef", ""), Context("", "gh", "ij")]


def test_contexts_are_spread_over_all_places_and_special_tokens_break_the_line():
    reading = planted.reading_of(["abcdefghi"], one=planted.site_of([0] * 9))
    reading.tokens[1] = 256
    site = reading.sites["one"]
    found = contexts(reading, site, np.arange(9), ByteTokenizer(), number=3, around=1)
    assert [(c.before, c.text, c.after) for c in found] == [
        ("", "a", "\n"),
        ("d", "e", "f"),
        ("h", "i", ""),
    ]
    assert contexts(reading, site, np.arange(0), ByteTokenizer()) == []


def test_codes_of_a_token_come_with_both_shares_the_commonest_first():
    codes = [[1, 0], [1, 2], [2, 2], [1, 3], [3, 1]]
    reading = planted.reading_of(["aab", "ab"], top=planted.site_of(codes, shared=True))
    found = codes_of_token(reading, ord("a"), most=3)
    assert found == [
        TokenCode("top", 0, 1, Score(3 / 4, 1.0, 3, 4, 3)),
        TokenCode("top", 0, 0, Score(1.0, 1 / 3, 1, 1, 3)),
        TokenCode("top", 0, 2, Score(1 / 2, 1 / 3, 1, 2, 3)),
    ]
    assert codes_of_token(reading, ord("z")) == []


def test_similar_codes_point_the_same_way_whatever_their_length():
    codes = torch.tensor([[1.0, 0], [9, 1], [-1, 0], [0, 1], [0, 2]])
    assert [code for code, _ in similar_codes(codes, 0)] == [1, 3, 4, 2]
    [(code, cosine)] = similar_codes(codes, 3, most=1)
    assert (code, cosine) == (4, pytest.approx(1))


def test_a_token_is_given_by_its_text():
    assert token_id(ByteTokenizer(), " ") == 32
    assert token_id(DigitTokenizer(16), "a") == 10
    assert token_id(ByteTokenizer(), "<|endoftext|>") == 256
    with pytest.raises(UserError, match="token=the: not one token but 't', 'h', 'e'; give one"):
        token_id(ByteTokenizer(), "the")
    with pytest.raises(UserError, match="token=x: a digit tokenizer of base 10 cannot encode 'x'"):
        token_id(DigitTokenizer(), "x")
    with pytest.raises(UserError, match="token=: not one token but nothing"):
        token_id(ByteTokenizer(), "")


def test_an_unknown_site_level_or_code_is_told_what_there_is():
    site = planted.site_of([[0, 0]], size=6)
    reading = planted.reading_of(["a"], one=site, two=site)
    assert site_of(reading, "two")[0] == "two"
    assert site_of(planted.reading_of(["a"], one=site), None)[0] == "one"
    for name, given in (("three", "three"), (None, "null")):
        with pytest.raises(UserError, match=f"site={given}: give one of one, two"):
            site_of(reading, name)
    check_book("one", site, 1, 5)
    with pytest.raises(UserError, match="level=2: one has levels 0 to 1"):
        check_book("one", site, 2, 0)
    with pytest.raises(UserError, match="code=6: one has codes 0 to 5"):
        check_book("one", site, 0, 6)
