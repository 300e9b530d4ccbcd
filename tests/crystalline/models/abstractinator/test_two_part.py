"""Mode discrete through an arithmetic coder: codes, then tokens."""

import math

import pytest
import torch

from crystalline.compression.coder import decode, encode
from crystalline.models.abstractinator.codec import code_length, compress_all
from crystalline.quantizers.residual import ResidualQuantizer
from tests.crystalline.models.abstractinator.building import VOCAB, shaken

FULL = 17
"""Tokens that a window tells; it begins with one more, that is known."""


def discrete(levels: int, document_end: int | None, books: int, **options):
    def quantizer(d_model: int) -> ResidualQuantizer:
        return ResidualQuantizer(d_model, 16, books, codebook_dim=8)

    return shaken(
        mode="discrete",
        context_length=FULL + 1,
        num_levels=levels,
        document_end=document_end,
        quantizer=quantizer,
        **options,
    )


def text(length: int) -> list[int]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, VOCAB, (length,), generator=generator).tolist()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("levels", "document_end", "books"), [(1, None, 2), (1, 0, 1), (3, 0, 2)])
def test_the_file_costs_what_the_two_parts_are_said_to(levels, document_end, books):
    model, tokens = discrete(levels, document_end, books), text(FULL)
    encoded = encode(model, tokens, first=0)
    assert decode(model, encoded.payload, FULL, first=0) == tokens
    window = torch.tensor([[0, *tokens]])
    said = {k: float(nats) / math.log(2) for k, nats in code_length(model, window).items()}
    assert encoded.bits["token"] == pytest.approx(said["tokens"], rel=1e-5)
    ideal = sum(encoded.bits.values())
    assert abs(8 * len(encoded.payload) - ideal) <= 0.001 * ideal + 64
    total = sum(said.values())
    if levels == 1:
        assert abs(8 * len(encoded.payload) - total) <= 0.001 * total + 64
    # Codes that no token is told of are left out: first segments that are known from the start.
    if levels == 1 and document_end is None:
        assert encoded.bits["code"] == pytest.approx(said["codes"], rel=1e-5)
    else:
        assert encoded.bits["code"] < said["codes"]


@pytest.mark.usefixtures("unchecked")
def test_the_rest_of_a_crowded_text_is_not_asked_for_its_end():
    rule = {"rule": "fixed", "max_length": 1, "min_mean_length": 3}
    model = discrete(1, None, 1, segmentation=rule)
    tokens = text(FULL)
    encoded = encode(model, tokens, first=0)
    assert decode(model, encoded.payload, FULL, first=0) == tokens
    assert model.levels[0].max_segments == 6
    assert encoded.bits["end"] < 1  # all but the last of them end, which is soon expected


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("levels", "length"), [(1, 0), (1, 1), (1, 2 * FULL + 5), (2, FULL + 2)])
def test_texts_of_every_length_come_back(levels, length):
    model, tokens = discrete(levels, 0, 1), text(length)
    encoded = encode(model, tokens, first=0)
    assert decode(model, encoded.payload, length, first=0) == tokens
    ideal = sum(encoded.bits.values())
    assert 8 * len(encoded.payload) <= 1.001 * ideal + 64


def test_what_is_told_are_the_codes_of_finished_segments_and_whether_the_last_one_ends():
    model, tokens = discrete(2, None, 2), torch.tensor([0, *text(FULL)])
    with torch.no_grad():
        known = model.description().answers(tokens)
        for index, codes in enumerate(compress_all(model, tokens[None])):
            for number in codes.mask[0].nonzero()[:, 0].tolist():
                told = [known["code", (index, number, book)] for book in range(2)]
                assert told == codes.indices[0, number].tolist()
                assert known["end", (index, number)] == 1
    ends = {place[1]: answer for place, answer in known.items() if place[0] == "end"}
    for index in range(2):
        of_level = [ends[key] for key in sorted(ends) if key[0] == index]
        assert of_level == [1] * (len(of_level) - 1) + [0]
    assert [known["token", (t,)] for t in range(FULL)] == tokens[1:].tolist()


def test_another_code_is_another_text():
    model, tokens = discrete(1, None, 1), text(FULL)
    description = model.description()
    with torch.no_grad():
        known = description.answers(torch.tensor([0, *tokens]))

        def scores(told):
            questions, found = description.questions(torch.tensor([[0]]), FULL), {}
            question = next(questions)
            while question.place != ("token", (5,)):
                found[question.place] = question.scores
                question = questions.send(told[question.place])
            return found

        plain = scores(known)
        opened = [place for place in plain if place[0] == "code"]
        place = opened[1]
        changed = scores({**known, place: (known[place] + 1) % 16})
    order = list(plain)
    first = order.index(place)
    for before in order[: first + 1]:
        assert torch.equal(changed[before], plain[before])
    assert order[first + 1][0] == "token"
    assert not torch.allclose(changed[order[first + 1]], plain[order[first + 1]])
