import json

import pytest

from tests.running import command, train


def test_the_bits_of_every_split_are_those_that_evaluate_finds(corpus, tmp_path):
    run = train(corpus, tmp_path)
    summary = run.summary
    assert command("evaluate", tmp_path, f"checkpoint={run.best}", "split=all").status == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    for split in ("val", "test", "train"):
        bits = {k: v for k, v in summary.items() if k.startswith(f"{split}/code_bits")}
        assert len(bits) == 3  # two sites and their sum
        for name, value in bits.items():
            assert found[name] == pytest.approx(value)
        assert 0 < bits.pop(f"{split}/code_bits") == pytest.approx(sum(bits.values()))
    # two levels of 8 codes: at every token in stage 0, at every other one in stage 1
    assert 6 < summary["code_bits_limit"] == pytest.approx(6 + 6 / 2, rel=0.1)
    assert found["test/code_bits_limit"] == pytest.approx(summary["code_bits_limit"])
