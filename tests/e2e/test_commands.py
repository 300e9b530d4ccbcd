"""Every documented command, as a user starts it."""

import csv
import json
import sqlite3

import pytest

from tests.running import Finished, arguments, process


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """An empty folder of a user's."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def run(corpus, project) -> Finished:
    """A tiny run with all default callbacks and loggers, and a trained tokenizer."""
    quiet = {"~callbacks.bucket_dump", "~callbacks.text_samples", "logger=csv"}
    typed = [a for a in arguments(corpus, project / "one") if a not in quiet]
    typed = [a for a in typed if not a.startswith("tokenizer@")]
    return process(
        "run",
        project,
        *typed,
        "data.tokenizer.vocab_size=300",
        "callbacks.bucket_dump.positions=500",
        "callbacks.text_samples.max_new_tokens=8",
        "hydra.run.dir=one",
    )


def test_run_leaves_what_it_promises(run, project):
    assert run.status == 0, run.err
    assert run.out == ""
    assert {path.name for path in project.iterdir()} >= {"one", "mlflow.db"}
    folder = project / "one"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names >= {
        *("summary.json", "metrics.csv", "run.log", "checkpoints/last.ckpt"),
        *("checkpoints/best.ckpt", ".hydra/config.yaml", ".hydra/overrides.yaml"),
    }
    assert any(name.startswith("buckets/") for name in names)
    assert any(name.startswith("samples/") for name in names)
    summary = json.loads((folder / "summary.json").read_text())
    for key in (
        *("test/loss", "test/bpb", "test/perplexity", "val/bpb", "train/bpb", "tokens_seen"),
        *("tokens_per_second", "peak_memory_mib", "parameters", "parameters_without_codebooks"),
        *("seed", "versions", "command"),
    ):
        assert summary[key] is not None, key
    said = run.err.splitlines()
    assert said[-1] == "summary: one/summary.json"
    assert not any("Warning" in line or "Traceback" in line for line in said), run.err


def test_mlflow_has_the_config_the_metrics_and_the_files(run, project):
    with sqlite3.connect(project / "mlflow.db") as connection:
        metrics = {name for (name,) in connection.execute("select distinct key from metrics")}
        params = dict(connection.execute("select key, value from params"))
        [status] = [s for (s,) in connection.execute("select status from runs")]
    connection.close()
    assert {"loss/total", "val/bpb", "tokens_per_second", "lr/codes"} <= metrics
    assert params["model.quantizer.codebook_size"] == "8"
    assert status == "FINISHED"


def test_evaluate_repeats_the_scores_of_the_run(run, project):
    done = process("evaluate", project, "checkpoint=one/checkpoints/best.ckpt")
    assert done.status == 0, done.err
    found = json.loads((project / "one" / "evaluation.json").read_text())
    summary = json.loads((project / "one" / "summary.json").read_text())
    assert found["test/bpb"] == pytest.approx(summary["test/bpb"], rel=1e-9)
    assert done.err.splitlines()[-1] == "written to one/evaluation.json"


def test_prepare_fills_the_cache_without_training(corpus, tmp_path):
    done = process(
        "prepare",
        tmp_path,
        "data=text",
        f"data.path={corpus}",
        "data.tokenizer.vocab_size=300",
        "model.context_length=16",
        CRYSTALLINE_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert done.status == 0, done.err
    assert "fingerprint" in done.err
    assert len(list((tmp_path / "cache" / "tokens").glob("*.npy"))) == 3
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_a_sweep_with_a_job_that_fails_leaves_the_results_of_the_others(corpus, tmp_path):
    typed = [a for a in arguments(corpus, tmp_path) if not a.startswith("hydra.")]
    sizes = "model.quantizer.codebook_size=4,0,8"
    done = process("run", tmp_path, "-m", *typed, sizes, "hydra.sweep.dir=sweep")
    assert done.status == 1
    folder = tmp_path / "sweep"
    assert "codebook_size" in (folder / "1" / "error.txt").read_text()
    errors = [line for line in done.err.splitlines() if line.startswith("crystalline.run: job 1:")]
    assert len(errors) == 1
    with (folder / "results.csv").open(newline="") as file:
        rows = {row["job"]: row for row in csv.DictReader(file)}
    assert [bool(rows[job]["test/bpb"]) for job in "012"] == [True, False, True]
    assert "codebook_size" in (folder / "report.md").read_text()
    assert (folder / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    # A finished job's summary is what a table of results is made of.
    done = process("report", tmp_path, "name=sizes", "add=sweep/0", "results_dir=results")
    assert done.status == 0, done.err
    assert "bpb" in (tmp_path / "results" / "sizes.md").read_text()
