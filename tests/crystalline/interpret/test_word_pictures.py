import math

import pytest

from crystalline.interpret import word_pictures

PNG = b"\x89PNG"


def state(word: str) -> dict:
    return {"top": [word], "probability": [0.5]}


def position(token: str, push: float | None) -> dict:
    parts = {"steps.0": {"next_push": push}, "steps.0.rest": {"next_push": 0.0}}
    states = [state("-"), state('"b$"')]
    return {"token": token, "next": '"$a$"', "states": states, "parts": parts}


def table(name: str, gap: int, pairs: list, own: list, pmi: float = math.nan) -> dict:
    return {"map": name, "gap": gap, "pairs": pairs, "own": own, "pmi": pmi}


def outcome(change: str, coordinates: str, faithful: float) -> dict:
    limits = {"low": faithful - 0.1, "high": faithful}
    return {"pass": 1, "change": change, "coordinates": coordinates, "faithful": faithful, **limits}


FOUND = {
    "text": [position('"$x$"', 2.0), position('"\N{SNOWMAN}"', None)],
    "lens": {"delta": [{"depth": 0, "kl": 1.0}, {"depth": 1, "kl": 0.0}]},
    "parts": [{"part": "start"}, {"part": "steps.0"}],
    "maps": [
        table("a", 1, [['"x"', '"y"', -4.0], ['"y"', '"x"', 2.0]], [], 0.25),
        table("b", 2, [], [['"z"', 1.0]]),
        table("c", -1, [['"x"', '"z"', 8.0]], []),
    ],
    "programs": [
        {"choice": "ops", "usage": {"gelu": 0.75, "relu": 0.25}},
        {"choice": "halt", "usage": {"go on": 1.0}},
    ],
    "tests": [outcome("zero", "words", 0.9), outcome("zero", "rotated", math.nan)],
}


@pytest.fixture
def drawn(monkeypatch) -> list:
    """What heat maps are asked to show, instead of it: values, rows, columns, labels, cells."""
    asked = []
    monkeypatch.setattr(word_pictures, "heat_png", lambda *given: asked.append(given) or PNG)
    monkeypatch.setattr(word_pictures, "curves_png", lambda *_: PNG)
    monkeypatch.setattr(word_pictures, "intervals_png", lambda *_: PNG)
    word_pictures.pictures(FOUND)
    return asked


def test_pictures_are_made_whatever_words_are_called(monkeypatch):
    monkeypatch.setattr(word_pictures, "curves_png", lambda *_: PNG)  # names no words
    some = {**FOUND, "maps": [], "tests": [], "text": FOUND["text"][:1]}
    made = word_pictures.pictures(some)
    assert list(made) == ["text", "depth", "programs"]
    assert all(picture.startswith(PNG) for picture in made.values())


@pytest.mark.usefixtures("drawn")
def test_there_are_pictures_of_what_was_read_alone():
    assert list(word_pictures.pictures(FOUND)) == [
        "text", "depth", "parts", "pairs", "programs", "tests"
    ]  # fmt: skip
    nothing = {"maps": [], "programs": [], "tests": [], "text": FOUND["text"][:1]}
    assert list(word_pictures.pictures({**FOUND, **nothing})) == ["text", "depth"]


def test_parts_are_shown_by_the_odds_that_they_change(drawn):
    values, rows, columns, _, cells = drawn[1]
    assert (rows, columns, cells) == (["steps.0"], [r'"\$a\$"'], [["+2.0"]])
    assert values[0][0] == pytest.approx(math.e**2 / (1 + math.e**2))


def test_pairs_are_compared_with_their_like(drawn):
    values, rows, columns, _, cells = drawn[2]
    assert rows == ["a, gap 1, PMI +0.25", "b, gap 2", "c, gap -1"]
    assert columns[:3] == ["from 1", "to 1", "from 2"]
    assert [row[:3] for row in cells] == [
        ['"x"', '- "y"', '"y"'], ['"z"', '+ "z"', ""], ['"x"', '+ "z"', ""]
    ]  # fmt: skip
    assert [row[0] for row in values] == [1, 0.25, 1]
    assert math.isnan(values[1][2])


def test_ways_of_all_choices_stand_beside_each_other(drawn):
    values, rows, columns, _, cells = drawn[3]
    assert (rows, columns) == (["ops", "halt"], ["gelu", "relu", "go on"])
    assert values[0][:2] == [0.75, 0.25]
    assert cells == [["0.75", "0.25", ""], ["", "", "1.00"]]
