"""The search command, as a user starts it."""

import json

from tests.running import process, train


def test_search_prints_codes_of_a_pattern_and_leaves_json_in_the_run(corpus, tmp_path):
    run = train(corpus, tmp_path / "run")
    typed = [f"checkpoint={run.best}", r"pattern=\b(\w)", "sequences=40", "token=e"]
    done = process("search", tmp_path, *typed)
    assert done.status == 0, done.err
    assert done.err.splitlines()[-1] == f"written to {run.folder}/search.json"
    assert done.out.startswith(r"\b(\w): ")
    found = json.loads((run.folder / "search.json").read_text())
    assert found["pattern"]["pattern"] == r"\b(\w)"
    assert found["token"]["codes"]
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
