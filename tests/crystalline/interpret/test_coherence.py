from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from crystalline.interpret.coherence import (
    contextual_bits,
    random_projection,
    residual_kmeans,
    score,
    site_coherence,
    site_references,
)
from crystalline.interpret.labels import token_traits
from crystalline.interpret.reading import read, read_inputs
from crystalline.tokenizer import ByteTokenizer
from tests.tiny_models import RunningMean

TEXT = "It was a low house. He saw, at 9, the Old Man; who was he? Nobody knew it. " * 10


def test_codes_equal_to_the_labels_score_one_and_explain_all_bits():
    labels = np.array([0, 1, 2, 3] * 25)
    scores = score(labels + 7, labels)
    assert scores["purity"] == 1
    assert (scores["nmi"], scores["ami"]) == (pytest.approx(1), pytest.approx(1))
    assert scores["explained_bits"] == pytest.approx(scores["label_bits"]) == pytest.approx(2)


def test_random_codes_have_purity_and_nmi_but_no_adjusted_information():
    generator = np.random.default_rng(0)
    scores = score(generator.integers(0, 200, 4000), generator.integers(0, 5, 4000))
    assert scores["purity"] > 0.3
    assert scores["nmi"] > 0.01
    assert abs(scores["ami"]) < 0.005


def test_a_code_that_memorises_the_token_adds_nothing_in_context():
    generator = np.random.default_rng(0)
    tokens, labels = generator.integers(0, 10, 2000), generator.integers(0, 2, 2000)
    same = contextual_bits(tokens, labels, tokens, generator)
    assert same["contextual_bits"] == pytest.approx(0, abs=1e-9)
    knows = contextual_bits(labels, labels, tokens, generator)
    assert knows["contextual_bits"] == pytest.approx(1, abs=0.01)
    assert knows["contextual_chance_bits"] < 0.02


def test_tokens_with_one_label_do_not_count_in_context():
    tokens = np.array([0, 0, 0, 1, 1, 1, 1])
    labels = np.array([5, 5, 5, 2, 3, 2, 3])
    codes = np.array([0, 1, 2, 0, 1, 0, 1])
    scores = contextual_bits(codes, labels, tokens, np.random.default_rng(0))
    assert scores["contextual_positions"] == 4
    assert scores["contextual_bits"] == pytest.approx(1)


def test_shuffled_codes_stay_with_their_token():
    tokens = np.array([0, 1] * 500)
    labels = np.random.default_rng(1).integers(0, 2, 1000)
    scores = contextual_bits(tokens * 3, labels, tokens, np.random.default_rng(0))
    assert scores["contextual_chance_bits"] == pytest.approx(0, abs=1e-9)


def test_k_means_of_separate_clumps_finds_them_and_its_next_level_what_is_left():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.tensor([[0.0, 0.0], [100.0, 0.0]]).repeat_interleave(40, 0)
    fine = torch.tensor([[0.0, -1.0], [0.0, 1.0]]).repeat(40, 1)
    codes = residual_kmeans(coarse + fine, 2, 2, generator)
    assert len({tuple(row) for row in codes.tolist()}) == 4
    assert (codes[:40, 0] == codes[0, 0]).all()
    assert (codes[40:, 0] != codes[0, 0]).all()


def test_random_projection_codes_a_point_by_direction_alone():
    points = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    points = torch.cat([points, -points])  # mean zero
    codes = random_projection(points, 7, torch.Generator().manual_seed(1))
    scaled = random_projection(points * 9, 7, torch.Generator().manual_seed(1))
    assert codes.tolist() == scaled.tolist()
    assert set(codes.tolist()) <= set(range(7))
    assert len(set(codes.tolist())) > 3


@pytest.fixture(scope="module")
def read_text():
    model = RunningMean(context_length=100)
    windows = [part[None] for part in torch.tensor(list(TEXT.encode())).split(100)]
    return model, windows, read(model, windows), token_traits(ByteTokenizer())


@pytest.fixture(scope="module")
def figures(read_text):
    _, _, reading, traits = read_text
    return {name: site_coherence(reading, site, traits) for name, site in reading.sites.items()}


@pytest.fixture(scope="module")
def references(read_text):
    model, windows, reading, traits = read_text
    return {
        name: site_references(
            reading,
            site,
            traits,
            inputs=read_inputs(model, windows, [name]).get(name),
            embedding=model.embedding.weight,
        )
        for name, site in reading.sites.items()
    }


def test_every_reference_is_there_with_as_many_levels_as_the_site(references):
    lengths = {name: len(levels) for name, levels in references["choice"].items()}
    assert lengths == {
        "site": 2,
        "shuffled_labels": 1,
        "random_projection": 1,
        "kmeans_inputs": 2,
        "kmeans_embedding": 2,
        "token_majority": 1,
    }
    without_module = set(references["top"])
    assert without_module == {"site", "shuffled_labels", "kmeans_embedding", "token_majority"}


def test_a_site_stands_among_its_references_with_its_own_figures(figures, references):
    for name in figures:
        assert references[name]["site"] == figures[name]["levels"]


def test_increments_sum_to_what_the_whole_tuple_explains(figures):
    first, second = figures["choice"]["prefixes"]
    own = figures["choice"]["levels"][0]
    for label in ("token_class", "token", "next_class", "next_token"):
        assert first[label]["explained_bits"] == pytest.approx(own[label]["explained_bits"])
        total = first[label]["increment_bits"] + second[label]["increment_bits"]
        assert total == pytest.approx(second[label]["explained_bits"])
        assert second[label]["increment_bits"] >= -1e-9
    assert figures["top"]["prefixes"] == []


def test_shuffled_labels_are_at_chance_and_token_identity_knows_the_token(references):
    chance = references["choice"]["shuffled_labels"][0]["token_class"]["ami"]
    assert abs(chance) < 0.02
    assert references["choice"]["token_majority"][0]["token"]["purity"] == 1
    assert references["choice"]["site"][0]["token_class"]["ami"] > chance + 0.05


def test_sites_over_spans_have_span_labels(figures):
    assert set(figures["pairs"]["levels"][0]) == {
        "token_class",
        "token",
        "next_class",
        "next_token",
        "contains_punctuation",
        "sentence_boundary",
    }


def test_all_figures_are_finite_numbers_that_json_can_hold(figures, references):
    def check(value):
        if isinstance(value, dict):
            [check(v) for v in value.values()]
        elif isinstance(value, list):
            [check(v) for v in value]
        else:
            assert math.isfinite(value)

    check(json.loads(json.dumps([figures, references], allow_nan=False)))


def test_scores_touch_no_global_random_state():
    reading, inputs = read(RunningMean(), [torch.randint(257, (2, 9))]), torch.randn(18, 4)
    site, traits = reading.sites["choice"], token_traits(ByteTokenizer())
    before = torch.get_rng_state()
    first = site_references(reading, site, traits, inputs=inputs)
    assert torch.equal(before, torch.get_rng_state())
    assert site_references(reading, site, traits, inputs=inputs) == first
