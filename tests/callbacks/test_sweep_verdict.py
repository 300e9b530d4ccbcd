"""What the jobs of a sweep say together is judged once they have ended."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from callbacks.sweep_verdict import SweepVerdict
from crystalline.command import CONF_DIR, run
from crystalline.errors import UserError
from tests.composing import composed

ROOT = """
defaults: [_self_, {hydra: default}]
k: 0
paths: {run_dir: "${hydra:runtime.output_dir}"}
hydra:
  callbacks:
    sweep_verdict:
      _target_: callbacks.sweep_verdict.SweepVerdict
      _convert_: all
      measure:
        _target_: crystalline.frontier.frontier
        _partial_: true
        by: [k]
        tolerance: 1.1
        baseline: null
      limits:
        sweet spot bits: {at_most: 10}
        ratio, k=1: {at_most: 1.5}
        ratio, k=9: {at_most: 1.5}
"""


def test_a_sweep_ends_with_its_verdict(tmp_path, monkeypatch, capfd):
    shutil.copytree(CONF_DIR / "hydra", tmp_path / "conf" / "hydra")
    (tmp_path / "conf" / "config.yaml").write_text(ROOT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run", "-m", "k=0,1,2"])

    def task(config):
        folder = Path(HydraConfig.get().runtime.output_dir)
        summary = {"val/loss": 1.0, "test/loss": 4 - config.k, "test/perplexity": 20 - config.k,
                   "test/code_bits": config.k * 5, "parameters": 5 + config.k,
                   "parameters_without_codebooks": 5}  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary))

    run(task, command="run", conf_dir=tmp_path / "conf")
    (folder,) = (tmp_path / "multirun").glob("*/*")
    found = json.loads((folder / "verdict.json").read_text())
    rows = {row["figure"]: row for row in found["limits"]}
    assert rows["sweet spot bits"]["measured"] == 5
    assert rows["ratio, k=1"]["measured"] == pytest.approx(3 / 4)
    assert rows["ratio, k=9"]["verdict"] == found["verdict"] == "not measured"
    assert rows["sweet spot"]["verdict"] == "recorded"
    assert "| sweet spot | k=1 | - | recorded |" in (folder / "verdict.md").read_text()
    said = capfd.readouterr()
    assert "verdict on the sweep: not measured" in said.out + said.err


def test_a_single_run_has_none():
    SweepVerdict(lambda rows: {}, {}).on_job_end(DictConfig({}))
    with pytest.raises(UserError, match=r"sweep_verdict\.limits: a: 1"):
        SweepVerdict(lambda rows: {}, {"a": 1})


@pytest.mark.parametrize("grid", ["e3_seeds", "crystalline_frontier"])
def test_the_verdicts_of_grids_measure_what_their_limits_name(grid):
    node = composed(f"grid={grid}", return_hydra_config=True).hydra.callbacks.sweep_verdict
    assert instantiate(node).measure([]) == {}
    swept = {key.rpartition(".")[2] for key in node.measure.by}
    for figure in node.limits:
        settings = {part.partition("=")[0] for part in figure.split(" ") if "=" in part}
        assert settings in (set(), swept)
