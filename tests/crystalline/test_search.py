"""The command that searches codes, on tiny runs of text and of the state machine."""

import json
import re

import pytest

from crystalline.interpret.buckets import BucketTable
from tests.running import Finished, command, train
from tests.selection import every_third

SITE = "stages.0.blocks.0.quantizer"


@pytest.fixture(scope="module")
def text(corpus, tmp_path_factory) -> Finished:
    """A tiny Ziggurat that has read words, byte by byte."""
    return train(corpus, tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def machine(corpus, tmp_path_factory) -> Finished:
    """A tiny Ziggurat that has read the state machine."""
    folder = tmp_path_factory.mktemp("fsm")
    return train(corpus, folder, "model.context_length=128", data="fsm")


def search(run: Finished, *more: str) -> Finished:
    return command("search", run.folder, f"checkpoint={run.best}", "sequences=20", *more)


def found(run: Finished) -> dict:
    return json.loads((run.folder / "search.json").read_text())


def test_without_a_question_there_are_the_tables_of_all_books(text, capfd):
    assert search(text, "top=2").status == 0
    said, content = capfd.readouterr().out, found(text)
    assert said.startswith("BUCKET ANALYSIS at step 4: 320 tokens")
    assert (content["sequences"], content["tokens"], content["data"]) == (20, 320, "text")
    table = BucketTable.from_json(json.dumps(content["tables"]))
    assert {(level.site, level.level) for level in table.levels} == {
        (site, level) for site in (SITE, "stages.1.blocks.0.quantizer") for level in (0, 1)
    }
    assert sum(bucket.n_positions for bucket in table.of(SITE, 0)) == 320


def test_a_pattern_is_searched_with_neurons_beside(text, capfd):
    assert search(text, r"pattern=\w", f"site={SITE}", "top=1").status == 0
    said, content = capfd.readouterr().out, found(text)["pattern"]
    assert said.startswith(rf"\w: {content['tokens']} of 320 tokens" + "\nsite")
    assert content["codes"]
    assert [(code["site"], code["level"]) for code in content["codes"]].count((SITE, 0)) == 1
    for code in content["codes"]:
        assert code["chosen"]["precision"] > 0.5
        assert code["neuron"]["chosen"]["recall"] >= code["chosen"]["recall"]
        assert code["reported"]["wanted"] + code["chosen"]["wanted"] == content["tokens"]
    assert "stages.1" not in said


def test_pattern_and_token_and_code_are_answered_together(text, capfd):
    asked = ("pattern=[aeiou](?=t)", "token= ", "code=0", f"site={SITE}", "level=1")
    assert search(text, *asked).status == 0
    content = found(text)
    assert "tables" not in content
    shares = [c["score"]["recall"] for c in content["token"]["codes"] if c["level"] == 0]
    assert 0 < sum(shares) <= 1 + 1e-9
    assert content["token"]["id"] == 32
    code = content["code"]
    assert (code["site"], code["level"], code["code"]) == (SITE, 1, 0)
    assert len(code["contexts"]) == min(20, code["positions"])
    assert len(code["similar"]) == 5
    assert f"{SITE} level 1 code 0: fires at" in capfd.readouterr().out


def test_a_topic_is_confirmed_on_other_sequences(text, corpus, capfd):
    words = sorted(set(re.findall("[a-z]+", corpus.read_text())))[::5]
    assert search(text, f"topic=[{','.join(words)}]", "topic_share=0.1").status == 0
    content = found(text)["topic"]
    assert content["keywords"] == words
    assert 0 < content["sequences"] < 20
    for code in content["codes"]:
        assert code["auc"] == pytest.approx((code["on_topic"] + 1 - code["off_topic"]) / 2)
    said = capfd.readouterr().out
    assert said.startswith(f"{', '.join(words)}: {content['sequences']} of 20 sequences")


def test_states_of_the_machine_have_their_codes_and_neurons(machine, capfd):
    assert search(machine, "states=true").status == 0
    said, content = capfd.readouterr().out, found(machine)["states"]
    states, pairs = content["states"], content["pairs"]
    # The upper stage's pairs of tokens end on first digits: it has no position at a state's end.
    assert {book["site"] for book in states["books"]} == {SITE}
    assert len({book["site"] for book in pairs["books"]}) == 2
    assert len(states["codes"]) == 100
    for part in (states, pairs):
        assert 0 <= part["best"]["code_coverage"] <= part["best"]["code_found"] <= 1
        assert 0 < part["best"]["neuron_precision"] <= 1
        assert part["best"]["majority"] <= part["best"]["purity"]
    assert [code["label"] for code in states["codes"]] == [str(state) for state in range(100)]
    assert "+" in pairs["codes"][0]["label"]
    assert said.startswith("states: 100, ")
    assert "\nstate-plus-digit: " in said


def test_a_pattern_of_digits_can_be_held_to_a_phase(machine):
    assert search(machine, "pattern=(?<=3)5").status == 0
    anywhere = found(machine)["pattern"]["tokens"]
    numbers = []
    for phase in (0, 1):
        assert search(machine, "pattern=(?<=3)5", f"phase={phase}").status == 0
        numbers.append(found(machine)["pattern"]["tokens"])
    assert sum(numbers) == anywhere
    assert min(numbers) > 0


def test_a_second_search_gives_the_same_file(text):
    for _ in range(2):
        assert search(text, "pattern=e", "output=" + str(text.folder / "again.json")).status == 0
        content = (text.folder / "again.json").read_text()
    assert search(text, "pattern=e", "output=" + str(text.folder / "third.json")).status == 0
    assert (text.folder / "third.json").read_text() == content


ERRORS = [
    (["pattern=(a"], "pattern=(a: not a regular expression"),
    (["pattern=Q{9}"], "pattern=Q{9}: it matches none of the 320 tokens read"),
    (["site=nowhere"], f"site=nowhere: give one of {SITE}, stages.1.blocks.0.quantizer"),
    (["code=0"], f"site=null: give one of {SITE}, stages.1.blocks.0.quantizer"),
    (["code=8", f"site={SITE}"], f"code=8: {SITE} has codes 0 to 7"),
    (["code=0", "level=2", f"site={SITE}"], f"level=2: {SITE} has levels 0 to 1"),
    (["code=-1"], "code=-1: give 0 or more"),
    (["token=xy"], "token=xy: not one token but 'x', 'y'; give one of them"),
    (["token=Q"], "token=Q: none of the tokens read"),
    (["states=true"], "states=True: data=text has no states; only data=fsm has"),
    (["pattern=a", "phase=0"], "phase=0: data=text has no states; only data=fsm has"),
    (["phase=0"], "phase=0 chooses among matches; give a pattern too"),
    (["topic=tea"], "topic=tea: give words in brackets"),
    (["topic=[zebra]"], "topic=[zebra]: 0 of 10 sequences of a half hold a keyword"),
    (["topic_share=1"], "topic_share=1: give a share from 0 to below 1"),
    (["split=all"], "split must be one of val, test, train, got 'all'"),
    (["sequences=1"], "sequences=1: give 2 or more"),
    (["checkpoint=null"], "checkpoint: give checkpoint=<run>/checkpoints/last.ckpt"),
]


@pytest.mark.parametrize(("arguments", "line"), every_third(ERRORS))
def test_what_a_user_gets_wrong_is_one_line(text, capfd, arguments, line):
    assert search(text, *arguments).status == 1
    *before, said = capfd.readouterr().err.splitlines()
    assert said.startswith("crystalline.search: ")
    assert line in said
    assert not before or before[0].startswith("Reading text from ")


def test_a_phase_that_no_state_has_is_one_line(machine, capfd):
    assert search(machine, "pattern=1", "phase=2").status == 1
    assert "phase=2: a state has the digits 0 to 1" in capfd.readouterr().err


def test_a_model_without_codes_is_one_line(corpus, tmp_path, capfd):
    run = train(corpus, tmp_path, model="transformer")
    capfd.readouterr()
    assert search(run).status == 1
    assert "nothing in this model is discrete" in capfd.readouterr().err
