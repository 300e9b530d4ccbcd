from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalline.metrics.overlap import longest_overlap

ids = st.lists(st.integers(0, 3), max_size=40)


def by_trying_all(sample: list[int], corpus: list[int]) -> tuple[int, int]:
    for length in range(len(sample), 0, -1):
        pieces = {tuple(sample[i : i + length]) for i in range(len(sample) - length + 1)}
        for start in range(len(corpus) - length + 1):
            if tuple(corpus[start : start + length]) in pieces:
                return length, start
    return 0, -1


@settings(max_examples=20, deadline=None)
@given(ids, ids, st.integers(1, 50))
def test_the_longest_stretch_and_its_first_place_are_found_in_chunks_of_any_size(
    sample, corpus, chunk
):
    found = longest_overlap(np.array(sample, int), np.array(corpus, np.uint16), chunk_tokens=chunk)
    assert tuple(found) == by_trying_all(sample, corpus)


def test_a_piece_of_the_corpus_is_found_whole_where_it_stands(tmp_path):
    corpus = np.memmap(tmp_path / "ids.bin", dtype=np.uint16, mode="w+", shape=5000)
    corpus[:] = np.random.default_rng(0).integers(0, 200, 5000)
    assert tuple(longest_overlap(corpus[1990:2040].copy(), corpus, chunk_tokens=500)) == (50, 1990)


@pytest.mark.parametrize("vocabulary", [30, 2000])
def test_a_million_tokens_take_less_than_a_second(vocabulary):
    generator = np.random.default_rng(0)
    corpus = (generator.zipf(1.4, 1_000_000) % vocabulary).astype(np.uint16)
    sample = (generator.zipf(1.4, 100) % vocabulary).astype(np.int64)
    began = time.process_time()
    assert longest_overlap(sample, corpus).length > 3
    assert time.process_time() - began < 3  # about 0.2 s alone; the margin is for busy cores
