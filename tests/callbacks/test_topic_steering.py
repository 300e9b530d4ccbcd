"""E5 at the end of a tiny run: topics find their codes, and precise codes are banned."""

import json
import re
from collections import Counter

import pytest

from tests.running import train

PNG = b"\x89PNG"
FEW = (
    "callbacks=steering", "~callbacks.topic_steering.topics",
    "~callbacks.syntax_patching.patterns",
    "callbacks.topic_steering.num_samples=3", "callbacks.topic_steering.max_new_tokens=10",
    "callbacks.topic_steering.sequences=60", "callbacks.topic_steering.choose=firing",
    "callbacks.topic_steering.min_share=0.05",
    "callbacks.topic_steering.prompts=['','a']",
    "callbacks.syntax_patching.sequences=60", "callbacks.syntax_patching.places=20",
    "callbacks.code_specificity.codes=3", "callbacks.code_specificity.effect_sequences=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def words(corpus):
    found = Counter(re.findall(r"\w+", corpus.read_text())).most_common(16)
    return [word for word, _ in found]


@pytest.fixture(scope="module")
def finished(corpus, words, tmp_path_factory):
    topics = f"{{one: [{','.join(words[:8])}], two: [{','.join(words[8:])}], none: [qqq]}}"
    return train(
        corpus, tmp_path_factory.mktemp("steering"), *FEW,
        f"+callbacks.topic_steering.topics={topics}",
        f"callbacks.code_specificity.patterns=['{words[0]}','{words[1]}']",
        "+callbacks.syntax_patching.patterns={space: ' ', none: qqq}",
    )  # fmt: skip


def test_every_topic_with_codes_has_three_arms_and_the_others_are_left_out(finished):
    assert finished.status == 0
    report = json.loads((finished.folder / "steering.json").read_text())
    arms = [(row["topic"], row["codes"]) for row in report["rows"]]
    assert arms == [(t, c) for t in ("one", "two") for c in ("base", "steered", "control")]
    assert report["judge"] == "the run's own model, without edits"
    assert all(row["texts"] == 6 for row in report["rows"])
    assert report["codes"]["one"]["steered"] != report["codes"]["one"]["control"]
    figures = {k: v for k, v in finished.summary.items() if k.startswith("steering/")}
    assert figures["steering/topics"] == 2
    steered = [row["frequency"] for row in report["rows"] if row["codes"] == "steered"]
    assert figures["steering/median_steered"] == pytest.approx(sum(steered) / 2)
    assert (finished.folder / "steering.png").read_bytes().startswith(PNG)
    assert (
        "price: perplexity under the run's own model"
        in (finished.folder / "steering.txt").read_text()
    )


def test_banned_codes_are_the_most_precise_of_the_patterns(finished, words):
    report = json.loads((finished.folder / "specificity.json").read_text())
    assert len(report["codes"]) <= 3
    assert all(row["pattern"] in words[:2] for row in report["codes"])
    assert finished.summary["specificity/codes"] == report["figures"]["specificity/codes"]


def test_codes_by_effect_make_the_model_expect_the_topic(corpus, tmp_path):
    same = {word for word in re.findall(r"\w+", corpus.read_text()) if word.startswith("t")}
    topics = f"+callbacks.topic_steering.topics={{one: [{','.join(sorted(same))}], none: [qqq]}}"
    run = train(
        corpus, tmp_path, *FEW, topics, "tokenizer@data.tokenizer=bpe",
        "data.tokenizer.vocab_size=330", "callbacks.topic_steering.choose=effect",
        "callbacks.topic_steering.max_cost=100", "~callbacks.code_specificity",
        "~callbacks.syntax_patching",
    )  # fmt: skip
    assert run.status == 0
    assert run.summary["steering/topics"] == 1
    report = json.loads((run.folder / "steering.json").read_text())
    assert list(report["codes"]) == ["one"]
    assert report["codes"]["one"]["steered"]


def test_a_model_without_codes_is_not_steered(corpus, tmp_path):
    topics = "+callbacks.topic_steering.topics={one: [a]}"
    patterns = "+callbacks.syntax_patching.patterns={space: ' '}"
    run = train(corpus, tmp_path, *FEW, topics, patterns, model="transformer")
    assert run.status == 0
    kinds = ("steering/", "specificity/", "syntax/")
    assert not any(name.startswith(kinds) for name in run.summary)


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("topic_steering.num_samples=0", "callbacks.topic_steering.num_samples=0: give 1 or more"),
        ("topic_steering.held_tokens=0", "callbacks.topic_steering.held_tokens=0: give 1 or more"),
        ("topic_steering.held_tokens=9", "outgrow the context of"),
        ("topic_steering.baseline=x.ckpt", "baseline=x.ckpt: no such checkpoint"),
        ("code_specificity.codes=0", "callbacks.code_specificity.codes=0: give 1 or more"),
        ("syntax_patching.places=0", "callbacks.syntax_patching.places=0: give 1 or more"),
    ],
)
def test_a_wrong_value_is_named_before_training(corpus, tmp_path, capfd, key, line):
    assert train(corpus, tmp_path, "callbacks=steering", f"callbacks.{key}").status == 1
    assert line in capfd.readouterr().err


def test_codes_of_a_syntactic_place_are_put_elsewhere(finished):
    report = json.loads((finished.folder / "syntax.json").read_text())
    assert list(report) == ["space"]  # nothing matches the other one
    row = report["space"]
    assert row["places"] == 20
    assert finished.summary["syntax/space/ratio"] == pytest.approx(row["patched"] / row["before"])
    assert finished.summary["syntax/least_ratio"] == finished.summary["syntax/space/ratio"]
