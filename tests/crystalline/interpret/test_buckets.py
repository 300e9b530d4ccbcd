from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalline.errors import UserError
from crystalline.interpret.bucket_text import render, shortened, side_by_side, top
from crystalline.interpret.buckets import BucketTable, bucket_table
from crystalline.interpret.reading import read
from crystalline.tokenizer import ByteTokenizer
from tests.crystalline.interpret.planted import segmented
from tests.tiny_models import Plain, RunningMean

TEXT = "The house – old and low – stood, it seemed, for ages. Who lived there?"


def windows_of(text: str, length: int) -> list[torch.Tensor]:
    tokens = torch.tensor(list(text.encode()))
    return [part[None] for part in tokens.split(length)]


def table_of(text: str = TEXT, length: int = 16, seed: int = 0, step: int = 0) -> BucketTable:
    reading = read(RunningMean(seed=seed), windows_of(text, length))
    return bucket_table(reading, ByteTokenizer(), step=step)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 16), st.integers(0, 2**31))
def test_counts_of_a_site_sum_to_its_positions_times_levels(rows, length, seed):
    tokens = torch.randint(257, (rows, length), generator=torch.Generator().manual_seed(seed))
    reading = read(RunningMean(), [tokens])
    table = bucket_table(reading, ByteTokenizer())
    for name, codes in RunningMean().eval()(tokens, codes=True).codes.items():
        rows_of_site = [b for b in table.buckets if b.site == name]
        real = int(codes.mask.sum()) if codes.mask is not None else codes.indices[..., 0].numel()
        assert sum(b.n_positions for b in rows_of_site) == real * codes.indices.shape[-1]
        assert sum(level.n_positions for level in table.levels if level.site == name) == sum(
            b.n_positions for b in rows_of_site
        )
        for bucket in rows_of_site:
            assert bucket.n_positions >= bucket.n_distinct
            assert 0 < bucket.purity <= 1


def test_strings_of_each_code_are_counted_as_by_hand():
    tokens, model = torch.tensor([list(TEXT.encode())]), RunningMean(context_length=100).eval()
    table = bucket_table(read(model, [tokens]), ByteTokenizer(), top_strings=1000)
    indices = model(tokens, codes=True).codes["choice"].indices[0]
    for level in (0, 1):
        for bucket in table.of("choice", level):
            chosen = tokens[0][indices[:, level] == bucket.code].tolist()
            texts = [bytes([t]).decode(errors="backslashreplace") for t in chosen]
            assert dict(bucket.strings) == Counter(texts)
            assert bucket.n_distinct == len(set(texts))
            assert bucket.purity == max(Counter(texts).values()) / len(texts)
    assert table.n_tokens == len(TEXT.encode())


def test_positions_over_several_tokens_hold_the_text_of_all_of_them():
    table = table_of("abcdefg", length=7)
    strings = {s for b in table.of("pairs", 0) for s, _ in b.strings}
    assert strings == {"ab", "cd", "ef"}
    segments = {s for b in table.of("segments", 0) for s, _ in b.strings}
    assert segments == {"abc", "def"}  # 99 and 102 are divisible by 3; "g" is in no segment


def test_whole_characters_and_special_tokens_are_readable():
    table = bucket_table(
        read(RunningMean(), [torch.tensor([[*"é".encode(), 256, ord("a")]])]), ByteTokenizer()
    )
    assert {s for b in table.of("pairs", 0) for s, _ in b.strings} == {"é", "<|endoftext|>a"}
    assert {s for b in table.of("choice", 0) for s, _ in b.strings} == {
        "\\xc3",
        "\\xa9",
        "<|endoftext|>",
        "a",
    }


def test_used_codes_perplexity_and_purity_summarise_the_buckets():
    table = table_of()
    for level in table.levels:
        rows = table.of(level.site, level.level)
        assert level.used == len(rows) <= level.codebook_size
        assert 1 <= level.perplexity <= level.used + 1e-9
        pure = sum(b.purity * b.n_positions for b in rows) / level.n_positions
        assert level.purity == pytest.approx(pure)


def test_entropies_of_strings_and_codes_are_those_counted_by_hand():
    reading = segmented([["ab", "ab", "c", "c", "d", "d", "d", "d"]], [0, 0, 0, 0, 1, 1, 2, 2])
    table = bucket_table(reading, ByteTokenizer())
    assert [b.string_bits for b in table.buckets] == pytest.approx([1, 0, 0])
    (level,) = table.levels
    assert level.mutual_bits == pytest.approx(1)
    assert level.string_bits_given_code == pytest.approx(0.5)
    assert level.code_bits_given_string == pytest.approx(0.5)
    assert level.purity == 6 / 8
    assert "1.00 bits shared with the string, H(string|code) 0.50, H(code|string) 0.50" in render(
        table
    )


def test_long_strings_are_shown_by_their_beginning_and_end():
    reading = segmented([["a" * 30 + "b" * 30]], [0])
    text = render(bucket_table(reading, ByteTokenizer()))
    assert f'"{"a" * 20}…{"b" * 20}" 1' in text
    assert shortened("c" * 41) == "c" * 41


def test_json_gives_the_same_table_back():
    table = table_of()
    assert BucketTable.from_json(table.to_json()) == table


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"step": 1}'])
def test_what_is_no_table_is_refused_in_one_line(text):
    with pytest.raises(UserError, match="not a bucket table"):
        BucketTable.from_json(text)


def test_a_model_without_codes_has_an_empty_table():
    table = bucket_table(read(Plain(), windows_of(TEXT, 16)), ByteTokenizer())
    assert (table.levels, table.buckets) == ((), ())


def test_each_order_shows_its_highest_buckets_first():
    table = table_of()
    level = table.levels[0]
    counts = [b.n_positions for b in top(table, level, 5, "count")]
    assert counts == sorted((b.n_positions for b in table.of("choice", 0)), reverse=True)[:5]
    distinct = [b.n_distinct for b in top(table, level, 5, "distinct")]
    assert distinct == sorted(distinct, reverse=True)
    pure = top(table, level, 5, "purity")
    assert [b.purity for b in pure] == sorted((b.purity for b in pure), reverse=True)
    assert all(b.n_positions >= 10 for b in pure)


def test_the_rendered_table_shows_every_level_with_its_top_buckets_and_counts():
    table = table_of(step=500)
    text = render(table, top_buckets=2, top_strings=3)
    assert "step 500" in text
    for level in table.levels:
        assert f"{level.site} level {level.level} " in text
        for bucket in top(table, level, 2, "count"):
            assert f"{bucket.n_positions:>7,} positions" in text
    assert "pairs level 0 (2 tokens a position)" in text
    assert render(table, only=[("pairs", 1)]).count(" level ") == 1


def test_side_by_side_tells_what_a_late_top_bucket_held_early():
    early, late = table_of(step=0), table_of(seed=1, step=9)
    text = side_by_side(early, late, top_buckets=1, top_strings=1)
    (row,) = top(late, late.levels[0], 1, "count")
    past = next(b for b in early.of("choice", 0) if b.code == row.code)
    line = text.split("choice level 0")[1].splitlines()[2]
    left, right = line.split(" | ")
    assert f"{past.n_positions}x {past.purity:.2f}" in left
    assert f"{row.n_positions}x {row.purity:.2f}" in right
    assert f"codes used {early.levels[0].used} -> {late.levels[0].used} of 6" in text


def test_side_by_side_says_when_a_code_was_not_used_early():
    late = table_of(step=9)
    early = BucketTable(0, late.n_tokens, late.levels, ())
    assert "not used" in side_by_side(early, late)
