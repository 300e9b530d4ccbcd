"""The command on a tiny Ziggurat that has read text, and on one that has read the machine."""

import json
import math
import re
from collections import Counter

import pytest

from tests.running import command, train
from tests.selection import every_third

SITE = "stages.0.blocks.0.quantizer"
UPPER = "stages.1.blocks.0.quantizer"


@pytest.fixture(scope="module")
def text_run(corpus, tmp_path_factory):
    return train(corpus, tmp_path_factory.mktemp("ziggurat"))


@pytest.fixture(scope="module")
def machine_run(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("machine")
    return train(corpus, folder, "model.context_length=127", data="fsm")


def intervene(run, *typed: str, do: str):
    """Status and, after success, what was written."""
    output = run.folder / "intervene.json"
    output.unlink(missing_ok=True)
    done = command("intervene", run.folder, f"checkpoint={run.best}", f"do={do}", *typed)
    return done.status, json.loads(output.read_text()) if output.is_file() else None


def test_activation_changes_predictions_from_the_position_on(text_run, capfd):
    more = (f"site={SITE}", "level=1", "code=3", "prompt=a, {b} ö", "positions=[4]")
    status, found = intervene(text_run, *more, do="activate")
    assert status == 0
    rows = found["positions"]
    assert [row["position"] for row in rows] == [4, 5, 6, 7, 8, 9]  # ö is two bytes
    assert [row["edited"] for row in rows] == [True] + [False] * 5
    assert all(0 <= row["jsd"] <= math.log(2) for row in rows)
    assert (found["prompt"], found["code"], found["do"]) == ("a, {b} ö", 3, "activate")
    out = capfd.readouterr().out
    assert out.startswith("position  token  edited  jsd")
    assert len(out.splitlines()) == 7


def test_a_position_of_a_pyramid_covers_several_tokens(text_run, capfd):
    more = (f"site={UPPER}", "code=1", "prompt=abcd")  # five tokens, two pairs
    assert intervene(text_run, *more, "positions=[2]", do="activate")[0] == 0
    assert intervene(text_run, *more, do="activate")[0] == 0
    capfd.readouterr()
    assert intervene(text_run, *more, "positions=[4]", do="activate")[0] == 1
    assert f"positions: {UPPER} has not finished a position" in capfd.readouterr().err


@pytest.mark.slow
def test_patching_every_site_of_a_text_with_itself_changes_nothing(text_run):
    same = ("prompt=one text", "source=one text")
    status, found = intervene(text_run, *same, do="patch")
    assert status == 0
    assert {row["jsd"] for row in found["positions"]} == {0}
    assert found["intervention_effect"] is None  # nothing to move
    status, found = intervene(text_run, "prompt=one text", "source=another", do="patch")
    edited = [row["edited"] for row in found["positions"]]
    assert edited == [True] * 8 + [False]  # the last token is beyond the source
    assert found["intervention_effect"] <= 1
    one = ("prompt=one text", "source=another", f"site={SITE}", "positions=[2,3]")
    status, found = intervene(text_run, *one, do="patch")
    assert (status, found["site"]) == (0, SITE)


def test_a_clamp_shows_both_continuations(text_run, capfd):
    more = (f"site={SITE}", "codes=[3]", "prompt=an", "max_new_tokens=30")  # beyond the context
    status, found = intervene(text_run, *more, do="clamp")
    assert status == 0
    assert found["base"] != found["clamped"]
    assert len(found["jsd"]) == 3
    assert capfd.readouterr().out.splitlines()[0].split() == ["without", "clamped"]


def test_deactivation_reads_the_validation_split(text_run):
    more = (f"site={SITE}", "level=1", "codes=[0,1,2,3,4,5,6,7]", "sequences=20")
    status, found = intervene(text_run, *more, do="deactivate")
    assert status == 0
    rows = found["specificity"]
    assert sum(row["fired"] for row in rows) == 20 * 16  # each token has one code of the level
    assert {row["fired"] + row["rest"] for row in rows} == {20 * 16}
    assert any(row["kl_fired"] for row in rows)


def test_composition_takes_codes_of_several_sites(text_run):
    codes = f"codes=[{{level: 1, code: 2}}, {{site: {SITE}, level: 0, code: 5}}]"
    status, found = intervene(text_run, codes, f"site={SITE}", "prompt=some words", do="compose")
    assert status == 0
    assert -1 <= found["composability"]["cosine"] <= 1
    assert [(row["level"], row["code"]) for row in found["alone"]] == [(1, 2), (0, 5)]


def test_steering_counts_words_beside_base_and_control(text_run):
    more = (f"site={SITE}", "codes=[3]", "topic=[a,e]", "num_samples=6", "max_new_tokens=20")
    more = (*more, "prompts=['','an']", "sequences=8", f"baseline='{text_run.last}'")
    status, found = intervene(text_run, *more, do="steer")
    assert status == 0
    rows = {row["codes"]: row for row in found["steering"]}
    assert list(rows) == ["base", "steered", "control"]
    for row in rows.values():
        assert row["texts"] == 12
        assert row["low"] <= row["frequency"] <= row["high"]
        assert row["price"] == pytest.approx(row["perplexity"] / rows["base"]["perplexity"])
    assert rows["base"]["log_odds_ratio"] == 0
    control = found["topics"][0]["control"][0]
    assert (control["site"], control["level"]) == (SITE, 0)
    assert control["code"] != 3


@pytest.mark.slow
def test_several_topics_find_their_codes_and_share_the_text_without_any(text_run, corpus):
    words = [word for word, _ in Counter(re.findall(r"\w+", corpus.read_text())).most_common(16)]
    topics = f"+topics={{one: [{','.join(words[:8])}], two: [{','.join(words[8:])}]}}"
    more = (
        "num_samples=3",
        "max_new_tokens=20",
        "sequences=60",
        "topic_share=0.05",
        "choose=firing",
    )
    status, found = intervene(text_run, topics, *more, do="steer")
    assert status == 0
    assert [row["topic"] for row in found["steering"]] == ["one"] * 3 + ["two"] * 3
    assert [row["codes"] for row in found["steering"]] == ["base", "steered", "control"] * 2
    assert found["steering"][0]["distinct_2"] == found["steering"][3]["distinct_2"]
    for topic in found["topics"]:
        assert 1 <= len(topic["codes"]) == len(topic["control"])
        assert not {tuple(c.values()) for c in topic["codes"]} & {
            tuple(c.values()) for c in topic["control"]
        }
    assert found["figures"]["topics"] == 2


def test_states_of_the_machine_are_patched_at_every_set_of_sites(machine_run, capfd):
    status, found = intervene(machine_run, "pairs=6", do="states")
    assert status == 0
    assert found["left_out"] == [UPPER]
    assert 0 <= found["first_transition"] <= 1
    for feature in ("state", "state_and_digit"):
        for name in (f"{feature}/prefix_61", f"{feature}/prefix_0"):  # 127 tokens hold no more
            none, site = found[name]
            assert (none["sites"], site["sites"]) == ("none", SITE)
            assert none["intervention_effect"] == 0
            assert site["intervention_effect"] == pytest.approx(1 - site["normalised"])
            assert ("success" in site) == (feature == "state")
    assert "first transition" in capfd.readouterr().out


def test_output_names_another_file(text_run, tmp_path):
    more = (f"site={SITE}", "code=3", f"output={tmp_path / 'x.json'}")
    status, found = intervene(text_run, *more, do="activate")
    assert (status, found) == (0, None)
    assert json.loads((tmp_path / "x.json").read_text())["steps"] > 0


ERRORS = [
    ("melt", (), "do=melt: give one of activate, deactivate, clamp, patch, compose, steer"),
    ("clamp", ("code=1",), "site: give the site that the code belongs to"),
    ("clamp", ("code=1", "site=x"), f"site=x: there is no such site; valid: {SITE}, {UPPER}"),
    ("clamp", (f"site={SITE}",), "codes: give code=<number>, or codes=[...]"),
    ("clamp", (f"site={SITE}", "code=8"), f"code=8: codes of {SITE} lie in [0, 8)"),
    ("clamp", (f"site={SITE}", "code=1", "level=2"), f"level=2: {SITE} has 2"),
    ("clamp", (f"site={SITE}", "code=one"), "codes: one is neither a number nor {site: ..."),
    ("compose", (f"site={SITE}", "codes=[1]"), "codes: give codes=[...], 2 or more"),
    ("compose", (f"site={SITE}", "codes=[1,2]"), "has no room left at level 0 for code 2"),
    ("activate", (f"site={SITE}", "code=1", "positions=[1]"), "positions=[1]: tokens lie in"),
    ("activate", (f"site={UPPER}", "code=1"), f"site={UPPER}: the text is too short for it"),
    ("activate", (f"site={SITE}", "code=1", f"prompt={'x' * 16}"), "prompt: 17 tokens"),
    ("steer", (f"site={SITE}", "code=1"), "topic: give the words to count"),
    ("steer", (f"site={SITE}", "code=1", "topic=[a]", "num_samples=0"), "num_samples=0"),
    ("steer", (f"site={SITE}", "code=1", "topic=[a]", "batch_size=0"), "batch_size=0: give 1"),
    ("steer", (f"site={SITE}", "code=1", "topic=[a]", "held_tokens=0"), "held_tokens=0: give 1"),
    ("steer", ("topics=tinystories", "num_codes=0"), "num_codes=0: give 1 or more"),
    ("steer", ("topics=tinystories", "choose=best"), "choose=best: give effect or firing"),
    ("steer", ("topics=tinystories",), "topic=[dragon,dragons]: no token"),
    ("deactivate", (f"site={SITE}", "code=1", "sequences=0"), "sequences=0: give 1 or more"),
    ("states", (), "do=states: data=text is no machine; name a checkpoint of data=fsm"),
]


@pytest.mark.parametrize(("do", "typed", "line"), every_third(ERRORS))
def test_what_a_user_gets_wrong_is_one_line(text_run, capfd, do, typed, line):
    assert intervene(text_run, *typed, do=do) == (1, None)
    said = capfd.readouterr()
    assert said.out == ""
    lines = [said for said in said.err.splitlines() if not said.startswith("Reading text")]
    assert len(lines) == 1
    assert lines[0].startswith("crystalline.intervene: ")
    assert line in lines[0]
