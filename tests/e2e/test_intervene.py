"""The intervention command, as a user starts it."""

import json

import pytest

from tests.running import process, train


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    return train(corpus, tmp_path_factory.mktemp("ziggurat"))


@pytest.mark.slow
def test_intervene_prints_a_table_and_leaves_json_in_the_run_folder(finished, tmp_path):
    typed = (f"checkpoint={finished.best}", "do=patch", "prompt=or, {so}", "source=no")
    done = process("intervene", tmp_path, *typed)
    assert done.status == 0, done.err
    assert done.out.startswith("position  token  edited  jsd")
    assert "\nintervention_effect " in done.out
    assert done.err.splitlines() == [f"written to {finished.folder / 'intervene.json'}"]
    assert list(tmp_path.iterdir()) == []
    found = json.loads((finished.folder / "intervene.json").read_text())
    assert found["prompt"] == "or, {so}"
    assert found["intervention_effect"] <= 1
