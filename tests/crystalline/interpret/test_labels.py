from __future__ import annotations

import json

import numpy as np
import torch

from crystalline.interpret.labels import (
    CLASSES,
    UNDEFINED,
    site_labels,
    token_classes,
    token_traits,
)
from crystalline.interpret.reading import read
from crystalline.tokenizer import ByteTokenizer, DigitTokenizer, Tokenizer
from tests.tiny_models import RunningMean


class Pieces(Tokenizer):
    """A vocabulary of given pieces; "" is the special token."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = [*pieces, ""]
        self.vocab_size, self.eot_id = len(self.pieces), len(pieces)

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def token_bytes(self, token: int) -> bytes:
        return self.pieces[token].encode()

    def to_json(self) -> str:
        return json.dumps(self.pieces)


def classes_of(tokenizer: Tokenizer, *windows: list[int]) -> list[str]:
    model = RunningMean(vocab_size=tokenizer.vocab_size)
    reading = read(model, [torch.tensor([window]) for window in windows])
    return [CLASSES[c] for c in token_classes(reading, token_traits(tokenizer))]


def test_tokens_have_the_class_of_their_first_visible_character():
    tokenizer = Pieces(" the", "ing", " 7", ",", " The", "\n ", '"', "€")
    assert classes_of(tokenizer, list(range(9))) == [
        "word_start",
        "continuation",
        "digit",
        "punctuation",
        "capitalised",
        "space",
        "punctuation",
        "punctuation",
        "special",
    ]


def test_a_letter_starts_a_word_unless_a_word_is_open_before_it():
    assert classes_of(ByteTokenizer(), list(b"ab c,d'e")) == [
        "word_start",
        "continuation",
        "space",
        "word_start",
        "punctuation",
        "word_start",
        "punctuation",
        "continuation",
    ]


def test_no_word_goes_on_from_another_window():
    assert classes_of(ByteTokenizer(), list(b"a"), list(b"b")) == ["word_start"] * 2


def test_parts_of_a_character_go_on_with_its_word():
    assert classes_of(ByteTokenizer(), list("aé".encode())) == [
        "word_start",
        "continuation",
        "continuation",
    ]


def test_digits_of_the_state_machine_are_digits():
    assert classes_of(DigitTokenizer(), [3, 10]) == ["digit", "special"]


def test_next_labels_are_undefined_at_the_end_of_a_window():
    reading = read(RunningMean(), [torch.tensor([list(b"ab"), list(b"c.")])])
    traits = token_traits(ByteTokenizer())
    labels = site_labels(reading, reading.sites["choice"], traits, token_classes(reading, traits))
    assert labels["next_token"].tolist() == [ord("b"), UNDEFINED, ord("."), UNDEFINED]
    assert labels["next_class"].tolist() == [1, UNDEFINED, 3, UNDEFINED]
    assert labels["token"].tolist() == list(b"abc.")
    assert "contains_punctuation" not in labels


def test_span_labels_look_at_every_token_of_the_span():
    reading = read(RunningMean(), [torch.tensor([list(b"a,b.cd, ")])])
    traits = token_traits(ByteTokenizer())
    labels = site_labels(reading, reading.sites["pairs"], traits, token_classes(reading, traits))
    assert labels["contains_punctuation"].tolist() == [1, 1, 0, 1]
    assert labels["sentence_boundary"].tolist() == [0, 1, 0, 0]
    assert labels["token"].tolist() == list(b",.d ")
    assert labels["next_token"].dtype == np.int64
