import re

import numpy as np
import pytest
import torch

from crystalline.errors import UserError
from crystalline.interpret.code_search import (
    at_positions,
    compile_pattern,
    first_half,
    matched_tokens,
    search_codes,
)
from crystalline.interpret.neurons import NeuronControl
from crystalline.interpret.reading import Reading, read, read_inputs
from crystalline.metrics.code_precision import Score
from crystalline.tokenizer import ByteTokenizer
from tests.crystalline.interpret.planted import reading_of, site_of
from tests.model_zoo import build
from tests.tiny_models import RunningMean


def matched(windows: list[str], pattern: str) -> list[int]:
    marked = matched_tokens(reading_of(windows), ByteTokenizer(), re.compile(pattern))
    return np.flatnonzero(marked).tolist()


def test_tokens_of_a_match_are_those_that_hold_its_characters():
    assert matched(["so he saw the sea"], r"\bhe\b") == [3, 4]
    assert matched(["so he saw", "the sea"], "se|sa") == [6, 7, 13, 14]


def test_a_capture_group_is_meant_instead_of_the_match():
    assert matched(["so he saw he"], r"h(e) s|x(y)") == [4]
    assert matched(["abc"], r"a(x)?b") == []  # the group took no part


def test_a_character_of_several_bytes_is_all_of_its_tokens():
    assert matched(["aé€𝄞b"], "[é𝄞]") == [1, 2, 6, 7, 8, 9]
    assert matched(["aé€𝄞b"], "b") == [10]


def test_bytes_that_are_no_text_and_special_tokens_are_one_token_each():
    tokens = np.array([0xA9, 97, 256, 98, 0xC3])  # half a character, a, <|endoftext|>, b, half
    reading = Reading(tokens, np.array([True, False, False, False, False]), {})
    for pattern, places in {
        "a": [1],
        r"a\nb": [1, 2, 3],
        "^b": [3],
        r"[\udc80-\udcff]": [0, 4],
    }.items():
        marked = matched_tokens(reading, ByteTokenizer(), re.compile(pattern, re.MULTILINE))
        assert np.flatnonzero(marked).tolist() == places


def test_no_match_runs_from_one_window_into_the_next():
    assert matched(["th", "e"], "the") == []


def test_a_position_of_several_tokens_is_marked_by_any_of_them():
    site = site_of([0, 1, 2], span=2)
    flags = np.array([False, False, False, True, True, True])
    assert at_positions(flags, site).tolist() == [False, True, True]


def test_the_first_half_is_of_windows_not_of_tokens():
    assert first_half(reading_of(["abcdef", "g", "h"])).tolist() == [True] * 7 + [False]
    with pytest.raises(UserError, match="sequences: "):
        first_half(reading_of(["abc"]))


def test_precision_and_recall_of_a_planted_code_are_exact():
    # Code 1 fires on x, but misses one of four in each half; code 2 on all x and on one y of two.
    windows = ["xxxxyyzzz", "xxxxyzz"]
    codes = [[1, 2], [1, 2], [1, 2], [0, 2], [0, 2], [0, 0], [0, 0], [0, 0], [0, 0]]
    codes += [[0, 2], [1, 2], [1, 2], [1, 2], [0, 0], [0, 0], [0, 0]]
    reading = reading_of(windows, planted=site_of(codes))
    marked = matched_tokens(reading, ByteTokenizer(), re.compile("x"))
    first, second = search_codes(reading, marked)
    assert (first.level, first.code, second.level, second.code) == (0, 1, 1, 2)
    assert first.chosen == Score(1.0, 0.75, 3, 3, 4)
    assert first.reported == Score(1.0, 0.75, 3, 3, 4)
    assert second.chosen == Score(0.8, 1.0, 4, 5, 4)
    assert second.reported == Score(1.0, 1.0, 4, 4, 4)


def test_a_code_chosen_on_the_first_half_is_reported_with_its_figures_on_the_second():
    reading = reading_of(["xxyy", "xxyy"], site=site_of([1, 1, 0, 0, 1, 0, 1, 1]))
    marked = reading.tokens == ord("x")
    [found] = search_codes(reading, marked)
    assert found.code == 1
    assert found.chosen == Score(1.0, 1.0, 2, 2, 2)
    assert found.reported == Score(1 / 3, 0.5, 1, 3, 2)


def test_a_code_that_is_precise_on_the_second_half_alone_is_not_chosen():
    reading = reading_of(["xxyy", "xxyy"], site=site_of([0, 2, 1, 1, 1, 1, 0, 0]))
    found = search_codes(reading, reading.tokens == ord("x"))
    assert 1 not in [match.code for match in found]


def test_a_token_counts_once_where_several_slots_repeat_a_code():
    codes = [[1, 1, 1], [1, 0, 0], [3, 2, 3], [1, 1, 2]]
    reading = reading_of(["xy", "xy"], site=site_of(codes, shared=True))
    found = {match.code: match for match in search_codes(reading, np.array([1, 1, 1, 1]) == 1)}
    assert found[1].chosen == Score(1.0, 1.0, 2, 2, 2)
    assert found[1].reported == Score(1.0, 0.5, 1, 1, 2)
    assert found[0].chosen == Score(1.0, 0.5, 1, 1, 2)


def test_codes_of_equal_figures_come_in_the_order_of_books_and_codes():
    codes = [[3, 3], [1, 1], [0, 0]] * 2
    sites = {name: site_of(codes) for name in ("b", "a")}
    reading = reading_of(["xxy", "xxy"], **sites)
    found = search_codes(reading, reading.tokens == ord("x"))
    order = [(match.site, match.level, match.code) for match in found]
    assert order == [(s, level, c) for s in ("b", "a") for level in (0, 1) for c in (1, 3)]
    assert [m.code for m in search_codes(reading, reading.tokens == ord("x"), most=1)] == [1] * 4


def test_rare_and_imprecise_codes_are_left_out():
    codes = [1] * 1 + [0] * 99 + [2, 2, 2] + [2] * 97 + [0] * 3
    text = "x" * 100 + "y" * 3 + "x" * 97 + "y" * 3
    windows = [text[:103], text[103:]]
    reading = reading_of(windows, site=site_of(codes))
    found = [match.code for match in search_codes(reading, reading.tokens == ord("x"))]
    assert found == [0]  # code 1 has a recall of exactly 0.01, code 2 a precision of 0


def test_neurons_stand_beside_each_code_at_its_recall():
    reading = reading_of(["xxyy", "xxyy"], site=site_of([1, 0, 0, 0, 1, 1, 0, 0]))
    marked = reading.tokens == ord("x")
    vectors = torch.tensor([[3.0, 0], [1, 0], [2, 0], [0, 0], [1, 0], [5, 0], [4, 0], [6, 0]])
    [best, *_] = search_codes(
        reading, marked, control=lambda _, first: NeuronControl(vectors, first)
    )
    assert best.neuron is not None
    assert (best.neuron.index, best.neuron.sign, best.neuron.threshold) == (0, 1, 3.0)
    assert best.neuron.chosen == Score(1.0, 0.5, 1, 1, 2)
    assert best.neuron.reported == Score(1 / 3, 0.5, 1, 3, 2)
    [alone, *_] = search_codes(reading, marked, control=lambda *_: None)
    assert alone.neuron is None


def test_a_bad_pattern_is_one_line():
    with pytest.raises(UserError, match=r"pattern=\(a: not a regular expression \(missing \)"):
        compile_pattern("(a")


@pytest.mark.parametrize("name", ["ziggurat_2", "crystalline", "tiny"])
def test_every_family_and_kind_of_site_is_searched_through_the_contract(name):
    model = RunningMean(codebook_size=16) if name == "tiny" else build(name)
    windows = [torch.randint(30, (12, 16), generator=torch.Generator().manual_seed(0))]
    reading = read(model, windows)
    marked = reading.tokens < 24

    def control(site: str, first: np.ndarray) -> NeuronControl | None:
        vectors = read_inputs(model, windows, [site]).get(site)
        return None if vectors is None else NeuronControl(vectors, first)

    found = search_codes(reading, marked, control=control)
    assert {match.site for match in found} == set(reading.sites)
    for match in found:
        site = reading.sites[match.site]
        fires = (site.indices if site.shared else site.indices[:, [match.level]]) == match.code
        held_out = ~first_half(reading)[site.last]
        assert match.reported.fired == (fires.any(1) & held_out).sum()
        assert (match.neuron is None) == (name == "tiny" and match.site in ("top", "segments"))
