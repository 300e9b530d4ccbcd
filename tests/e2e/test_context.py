"""The command that measures what context gives, as a user starts it."""

import json

from tests.running import process, train


def test_context_prints_two_tables_and_leaves_json_and_a_picture_in_the_run(corpus, tmp_path):
    run = train(corpus, tmp_path / "run", model="transformer")
    typed = [f"checkpoint={run.best}", "targets=40", "windows=[1,2]", "longest_match=1"]
    done = process("context", tmp_path, *typed)
    assert done.status == 0, done.err
    assert done.err.splitlines()[-1] == f"written to {run.folder}/context.json"
    assert done.out.startswith("transformer, step 4: 40 targets of text, val\n")
    assert done.out.count("\n\n") == 2
    found = json.loads((run.folder / "context.json").read_text())
    assert [row["window"] for row in found["windows"]] == [1, 2, 16]
    assert (run.folder / "context.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
