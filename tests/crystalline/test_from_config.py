"""Values of a config are of the types that their targets ask for, or one line names the key."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from crystalline.errors import UserError
from crystalline.from_config import annotations_of, check, fits, from_config, said


class Part:
    def __init__(self, size: int, rates: Sequence[float] = (), **options: Any) -> None:
        self.size, self.rates, self.options = size, rates, options


class Whole(Part):
    def __init__(
        self,
        part: Part,
        kind: Literal["a", "b"] = "a",
        share: float | None = None,
        weights: Mapping[str, float] | None = None,
        unknown: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.part, self.kind, self.share = part, kind, share


class Plain(Part):
    """Without a constructor of its own."""


def node(**values):
    part = {"_target_": f"{__name__}.Part", "size": "${width}"}
    whole = {"_target_": f"{__name__}.Whole", "part": part, "size": 2} | values
    return OmegaConf.create({"width": 3, "model": whole}).model


@pytest.mark.parametrize(
    ("value", "hint", "fit"),
    [
        (1, int, True), (1.0, int, False), (True, int, False), ("1", int, False),
        (1, float, True), (1.5, float, True), (False, float, False), (None, float, False),
        (True, bool, True), (1, bool, False),
        ("a", str, True), (1, str, False),
        (None, int | None, True), (2, int | None, True), ("x", int | None, False),
        ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False),
        (1, Literal[True], False),
        ([1, 2], Sequence[int], True), ([1, "x"], Sequence[int], False),
        ("ab", Sequence[str], False),
        ([1, 2.5], tuple[float, ...], True), ([1], list, True), (1, list[int], False),
        ({"a": 1.0}, Mapping[str, float], True), ({"a": "x"}, dict[str, float], False),
        ([], Mapping[str, float], False),
        ("a/b", Path, True), (3, Path, False),
        (object(), Any, True), (3, Part, False), (None, Part, False), (Plain(1), Part, True),
        ("f", "Unreadable", True), ([1], object, True),
        ("fast", float | Part, False), (1.5, float | Part, True), (True, float | Part, False),
        ([0.9, 1], tuple[float, float | Part], True), ([0.9], tuple[float, float], False),
        ([0.9, "x"], tuple[float, float], False), ([], tuple[float, ...], True),
    ],
)  # fmt: skip
def test_plain_values_fit_their_annotations(value, hint, fit):
    assert fits(value, hint) == fit


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | None, "a whole number, or null"),
        (float | Sequence[float], "a number, or a list, each a number"),
        (Literal["a", "b"] | None, "one of a, b, or null"),
        (Literal[16, 32] | Literal["16", "bf16"] | None, "one of 16, 32, bf16, or null"),
        (bool, "true or false"),
        (list, "a list"),
        (tuple[float | Part, float | Part], "a list of 2, each a number"),
        (Part, "a node with _target_"),
        (Part | None, "null"),
        (dict[str, int], "keys with values"),
        (Path, "text"),
    ],
)
def test_types_are_said_in_words(hint, words):
    assert said(hint) == words


def test_objects_are_made_of_values_that_fit():
    made = from_config(node(kind="b", share=1, rates=[1, 2.5], weights={"a": 1}))
    assert (made.part.size, made.kind, made.share, made.rates) == (3, "b", 1, [1, 2.5])


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"size": "x"}, "model.size=x: must be a whole number"),  # of the class it is made of
        ({"size": None}, "model.size=null: must be a whole number"),
        ({"share": True}, "model.share=true: must be a number, or null"),
        ({"kind": "c"}, "model.kind=c: must be one of a, b"),
        ({"rates": [1, "x"]}, "model.rates=[1, 'x']: must be a list, each a number"),
        (
            {"part": {"_target_": f"{__name__}.Part", "size": 1.5}},
            "model.part.size=1.5: must be a whole number",
        ),
        ({"unknown": [node(size="y")]}, "model.unknown[0].size=y: must be a whole number"),
        ({"weights": 3}, "model.weights=3: must be keys with values, or null"),
        ({"weights": {"a": "x"}}, "model.weights.a=x: must be a number"),
        ({"weights": {"a": "???"}}, "model.weights.a is not set; add model.weights.a=<value>"),
        ({"rates": ["???"]}, "model.rates[0] is not set; give it a value"),
        ({"part": 5}, "model.part=5: must be a node with _target_"),
    ],
)
def test_a_value_that_does_not_fit_is_named(values, line):
    with pytest.raises(UserError) as caught:
        from_config(node(**values))
    assert str(caught.value) == line


def test_values_that_are_given_win_and_are_not_looked_at():
    assert from_config(node(size=None), size=7).size == 7
    check(node(size=None), given=["size"])


def test_what_completes_a_partial_may_be_missing():
    made = from_config(node(size=None, _partial_=True))
    assert made(size=5).size == 5
    check(node(size="???"))


def test_a_class_without_a_constructor_has_that_of_the_class_it_is_made_of():
    assert annotations_of(f"{__name__}.Plain")["size"] is int


@pytest.mark.parametrize("target", ["no.such.thing", "math.hypot"])
def test_targets_without_annotations_ask_for_nothing(target):
    assert annotations_of(target) == {}
