"""A run's verdict is on its whole summary."""

import json

from tests.running import train

LIMITS = (
    "+callbacks.verdict.limits={val/loss: {at_most: 100}, "
    "parameters: {at_most: {of: steps}}, nothing: {at_least: 0}}"
)


def test_the_verdict_stands_in_the_run_folder_and_on_the_terminal(corpus, tmp_path, capfd):
    run = train(corpus, tmp_path, LIMITS, model="transformer")
    assert run.status == 0
    found = json.loads((tmp_path / "verdict.json").read_text())
    assert found["verdict"] == "fail"
    assert [row["verdict"] for row in found["limits"]] == ["pass", "fail", "not measured"]
    assert found["limits"][0]["measured"] == run.summary["val/loss"]
    assert found["limits"][1]["bound"] == run.summary["steps"] == 4
    assert "| nothing | - | ≥ 0 | not measured |" in (tmp_path / "verdict.md").read_text()
    said = capfd.readouterr()
    assert "verdict: fail" in said.out + said.err


def test_without_limits_there_is_no_verdict(corpus, tmp_path):
    train(corpus, tmp_path, model="transformer")
    assert not (tmp_path / "verdict.md").exists()
