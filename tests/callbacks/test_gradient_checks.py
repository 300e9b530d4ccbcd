"""A run of E1 at tiny size: figures, report and verdict."""

import json

from tests.running import command

TINY = ("experiment=e1_gradients", "model.num_layers=1", "model.d_model=16", "model.num_heads=2",
        "model.codebook_size=12", "data.batch_size=4", "trainer.max_steps=2", "logger=csv",
        "callbacks.gradient_checks.toy_rounds=3")  # fmt: skip


def test_figures_and_verdict_are_those_of_the_runs_own_bottlenecks(tmp_path):
    run = command("run", tmp_path, *TINY, f"hydra.run.dir={tmp_path}")
    assert run.status == 0
    report = json.loads((tmp_path / "gradients.json").read_text())
    assert len(report["sites"]) == 3
    assert report["figures"].items() <= run.summary.items()
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    rows = {row["figure"]: row["verdict"] for row in verdict["limits"]}
    assert set(rows) == set(report["figures"])
    assert {v for name, v in rows.items() if name.startswith("gradients/")} == {"pass"}
    assert rows["toy_source/ami"] == "recorded"


def test_a_number_out_of_range_is_named(tmp_path, capfd):
    more = "callbacks.gradient_checks.points=0"
    assert command("run", tmp_path, *TINY, more, f"hydra.run.dir={tmp_path}").status == 1
    assert "callbacks.gradient_checks.points=0: give 1 or more" in capfd.readouterr().err
