"""Stop and go is the same run."""

import signal

import pytest
import torch

from tests.running import Finished, resume, train

OPTIONS = (
    "trainer.max_steps=12",
    "trainer.val_check_interval=3",
    "model.dropout=0.2",
    "callbacks.dead_codes={every_n_steps: 3, idle_positions: 30, max_fraction: 0.5, until: 1.0}",
    "callbacks.codebook_init={every_n_steps: 5, until: 1.0}",
    "callbacks.usage.positions=200",
)


def stop(step: int, name: str = "SIGTERM") -> str:
    return f"+callbacks.stop={{_target_: tests.running.Stop, step: {step}, signal: {name}}}"


def weights_of(run: Finished) -> dict[str, torch.Tensor]:
    return torch.load(run.last, weights_only=True)["state_dict"]


def assert_equal_weights(whole: Finished, parts: Finished) -> None:
    expected, found = weights_of(whole), weights_of(parts)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("update", "accumulate"),
    [
        ("ema", 2),
        pytest.param("gradient", 1, marks=pytest.mark.slow),
        pytest.param("gradient", 2, marks=pytest.mark.slow),
        pytest.param("ema", 1, marks=pytest.mark.slow),
    ],
)
def test_six_rounds_and_six_more_are_twelve_bit_for_bit(corpus, tmp_path, update, accumulate):
    options = (
        *OPTIONS,
        f"model.quantizer.update={update}",
        f"objective.accumulate={accumulate}",
    )
    whole = train(corpus, tmp_path / "whole", *options)
    parts = train(corpus, tmp_path / "parts", *options, stop(5))
    assert parts.status == 128 + signal.SIGTERM
    assert parts.column("step")[-1] == "6"
    assert resume(parts.last).status == 0
    assert len(whole.losses()) > 12 * 4
    assert parts.losses() == whole.losses()
    later = [row for row in whole.rows if int(row["step"]) > 6 and row.get("codebook/revived")]
    assert sum(float(row["codebook/revived"]) for row in later) > 0  # resets are part of the test
    for key in ("test/loss", "val/loss", "best_step", "steps", "codebook/perplexity"):
        assert parts.summary[key] == whole.summary[key], key
    assert_equal_weights(whole, parts)


@pytest.mark.slow
def test_a_pyramid_that_moves_its_cuts_and_codes_goes_on_where_it_stood(corpus, tmp_path):
    options = (
        *OPTIONS,
        *("model.num_levels=2", "model.quantizer.update=ema"),
        "model.segmentation={min_mean_length: 1.5, mean_length: 3.0, theta_bits: 4.0}",
    )
    whole = train(corpus, tmp_path / "whole", *options, model="abstractinator")
    parts = train(corpus, tmp_path / "parts", *options, stop(5), model="abstractinator")
    moved = [v for name, v in weights_of(parts).items() if name.endswith("segmenter.threshold")]
    assert len(moved) == 2
    assert moved[0] != 4.0
    assert resume(parts.last).status == 0
    assert parts.losses() == whole.losses()
    assert_equal_weights(whole, parts)


@pytest.mark.slow
def test_estimates_over_rounds_go_on_where_they_stood(corpus, tmp_path):
    options = (
        *OPTIONS,
        *("model=crystalline", "model.num_layers=1", "model.num_codes_k=1"),
        *("model.codebook_size=32", "model.lambda_compress=1.0"),  # a round has 64 choices of 320
        *("objective.accumulate=2", "~callbacks.assignment_entropy", "~callbacks.hardening"),
    )
    whole = train(corpus, tmp_path / "whole", *options, model="transformer")
    parts = train(corpus, tmp_path / "parts", *options, stop(5), model="transformer")
    weights = weights_of(parts)
    estimates = [v for name, v in weights.items() if name.endswith("mean_assignment.weight")]
    assert len(estimates) == 3
    assert all(0 < weight < 1 for weight in estimates)
    assert resume(parts.last).status == 0
    assert parts.losses() == whole.losses()


@pytest.mark.slow
def test_neurons_are_born_and_freeze_after_a_stop_as_they_would_have(corpus, tmp_path):
    options = (
        *OPTIONS,
        *("model=crystal", "model.capacity=24", "model.founders=6", "model.epochs=12"),
        *("model.growth={every: 2, base: [[1.0, 2]]}", "~callbacks.ablation"),
        "model.freezing={every: 2, min_age: 2, min_candidates: 2, min_readings: 2}",
        *("~callbacks.code_bits", "~callbacks.assignment_entropy"),
    )
    whole = train(corpus, tmp_path / "whole", *options, model="transformer")
    parts = train(corpus, tmp_path / "parts", *options, stop(5), model="transformer")
    assert parts.status == 128 + signal.SIGTERM
    assert resume(parts.last).status == 0
    assert parts.losses() == whole.losses()
    assert_equal_weights(whole, parts)
    weights = weights_of(whole)
    born = weights["model.blocks.0.field.birth"]
    assert {2, 4, 6, 8, 10} <= set(born.tolist())
    assert weights["model.blocks.0.field.frozen"].any()


def test_a_stop_between_validations_adds_none(corpus, tmp_path):
    options = (*OPTIONS, "trainer.val_check_interval=4")
    whole = train(corpus, tmp_path / "whole", *options, model="transformer")
    parts = train(corpus, tmp_path / "parts", *options, stop(5), model="transformer")
    assert resume(parts.last).status == 0
    assert parts.losses() == whole.losses()


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> Finished:
    """Four rounds that may go on."""
    return train(corpus, tmp_path_factory.mktemp("finished"))


def test_more_rounds_may_be_asked_for_and_the_run_keeps_its_folder_and_origin(corpus, tmp_path):
    first = train(corpus, tmp_path, model="transformer")
    before, asked = first.rows, first.summary
    assert resume(first.last, "trainer.max_steps=7").status == 0
    assert [row["step"] for row in first.rows] == [str(step) for step in range(1, 8)]
    assert [row["loss/total"] for row in first.rows[:4]] == [row["loss/total"] for row in before]
    assert first.summary["steps"] == 7
    assert first.summary["choices"] == asked["choices"]
    assert first.summary["overrides"] == asked["overrides"]
    assert "ckpt_path=" in first.summary["command"]
    # And once more: the second checkpoint has kept them too.
    assert resume(first.last, "trainer.max_steps=8").status == 0
    assert first.summary["choices"] == asked["choices"]


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("seed=3", "seed"),
        ("model=transformer", "model"),
        ("optimizer.lr=1", "optimizer.lr"),
        pytest.param("model.dropout=0.5", "model.dropout", marks=pytest.mark.slow),
        pytest.param("data.batch_size=8", "data.batch_size", marks=pytest.mark.slow),
        pytest.param("objective=single", "objective", marks=pytest.mark.slow),
        ("~callbacks.progress", "callbacks.progress"),
    ],
)
def test_nothing_else_may_be_overridden(finished, capfd, override, key):
    before = finished.rows
    assert resume(finished.last, override).status == 1
    said = capfd.readouterr().err
    assert said.startswith(f"crystalline.run: {key} cannot change when a run is resumed")
    assert said.count("\n") == 1
    assert finished.rows == before


def test_codes_are_not_started_anew(finished, tmp_path, monkeypatch):
    def fail(*_):
        raise AssertionError("k-means ran again")

    monkeypatch.setattr("callbacks.codebook_init.init_codebooks", fail)
    assert resume(finished.last, "trainer.max_steps=5").status == 0


@pytest.mark.slow
def test_the_mlflow_run_goes_on(corpus, tmp_path):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow = ("logger=mlflow", f"logger.mlflow.tracking_uri={uri}")
    first = train(corpus, tmp_path / "run", *mlflow, model="transformer")
    assert first.status == 0
    assert resume(first.last, "trainer.max_steps=6").status == 0
    client = MlflowClient(uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "crystalline"]
    [run] = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss/total")
    assert [entry.step for entry in history] == [1, 2, 3, 4, 5, 6]
    assert run.info.status == "FINISHED"
    assert run.data.params["model.d_model"] == "16"
    assert run.data.metrics["val/bpb"] > 0
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "summary.json"} <= names
