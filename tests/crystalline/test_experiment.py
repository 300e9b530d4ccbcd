"""What a run leaves, and what a user can get wrong about it."""

import json
import math

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from tests.running import arguments, command, experiment, train

SUMMARY = {
    *("test/loss", "test/bpb", "test/perplexity", "val/loss", "val/bpb", "train/loss"),
    *("train/bpb", "steps", "best_step", "tokens_seen", "tokens_per_second", "peak_memory_mib"),
    *("parameters", "parameters_without_codebooks", "seed", "versions", "command", "device"),
    *("devices", "precision", "data_fingerprint", "choices", "overrides"),
}


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    return train(corpus, tmp_path_factory.mktemp("finished"))


def test_the_summary_has_all_that_tables_need(finished):
    summary = finished.summary
    assert set(summary) >= SUMMARY
    for name in ("test/bpb", "val/bpb", "train/bpb", "tokens_per_second", "peak_memory_mib"):
        assert summary[name] > 0, name
    assert summary["test/perplexity"] == pytest.approx(math.exp(summary["test/loss"]))
    assert summary["parameters"] - summary["parameters_without_codebooks"] == 2 * 2 * 8 * 8
    assert summary["command"].startswith("python -m crystalline.run model=ziggurat ")
    assert summary["choices"]["model"] == "ziggurat"
    assert "seed" not in " ".join(summary["overrides"])
    assert summary["seed"] == 0


def test_bits_per_byte_are_nats_over_the_bytes_of_the_scored_text(finished, corpus, tmp_path):
    data = experiment(corpus, tmp_path).data
    summary = finished.summary
    for split, loader in {"val": data.val_dataloader(), "test": data.test_dataloader()}.items():
        targets = sum(int((batch.targets != -100).sum()) for batch in loader)
        nats = summary[f"{split}/loss"] * targets
        expected = nats / math.log(2) / data.split_bytes[split]
        assert summary[f"{split}/bpb"] == pytest.approx(expected, rel=1e-9)


def test_the_same_seed_repeats_the_run_and_another_does_not(finished, corpus, tmp_path):
    again = train(corpus, tmp_path / "again")
    other = train(corpus, tmp_path / "other", "seed=1")
    assert again.losses() == finished.losses()
    assert other.column("loss/total")[0] != finished.column("loss/total")[0]


def test_a_run_without_loggers_still_has_its_summary(corpus, tmp_path):
    run = train(corpus, tmp_path, "logger=none", model="transformer")
    assert run.summary["test/loss"] > 0
    assert not (tmp_path / "metrics.csv").exists()


def test_early_stopping_ends_a_run_that_no_longer_improves(corpus, tmp_path):
    run = train(
        corpus,
        tmp_path,
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=2",
        "optimizer.lr=0",
        "trainer.max_steps=9",
        "trainer.val_check_interval=1",
        model="transformer",
    )
    assert run.status == 0
    assert run.summary["steps"] == 3
    assert run.summary["best_step"] == 1


@pytest.mark.parametrize("mode", ["fixed", "source"])
def test_ddp_looks_for_unused_parameters_only_where_the_model_names_some(
    corpus, tmp_path, mode, monkeypatch
):
    monkeypatch.setattr("torch.multiprocessing.cpu_count", lambda: 4)
    run = experiment(corpus, tmp_path, "trainer=ddp_cpu", f"model.mode={mode}")
    strategy = run.trainer.strategy
    assert isinstance(strategy, DDPStrategy)
    assert strategy._ddp_kwargs["find_unused_parameters"] is (mode == "source")


def test_one_device_needs_no_ddp(corpus, tmp_path):
    assert not isinstance(experiment(corpus, tmp_path).trainer.strategy, DDPStrategy)


def test_the_precision_of_autocast_leaves_losses_in_fp32(corpus, tmp_path):
    run = train(corpus, tmp_path, "trainer.precision=bf16-mixed")
    assert run.summary["precision"] == "bf16-mixed"
    assert run.summary["test/loss"] == pytest.approx(math.log(257), rel=0.1)
    state = torch.load(run.last, weights_only=True)["state_dict"]
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float32}


ERRORS = [
    (["model=transfomer"], "model=transfomer: there is no such model; did you mean transformer?"),
    (["data=shakspeare"], "data=shakspeare: there is no such data; did you mean shakespeare?"),
    (["experiment=none_such"], "experiment=none_such: there is no such experiment"),
    (["sed=1"], "sed: there is no such key; did you mean seed?"),
    (["trainer.max_step=3"], "trainer.max_step: there is no such key; did you mean max_steps?"),
    (
        ["model.quantizer.codebok_size=3"],
        "model.quantizer.codebok_size: there is no such key; did you mean codebook_size?",
    ),
    (["objective.schedule.warmup=3"], "objective.schedule.warmup: there is no such key"),
    (["model.mode=faithful"], "model.mode=faithful: must be one of source, fixed"),
    (["model.placement=behind"], "behind"),
    (
        ["model.quantizer.update=sgd"],
        "model.quantizer.update=sgd: must be one of gradient, ema, frozen",
    ),
    (["model.quantizer.estimator=gumbel"], "gumbel"),
    (["trainer.devices=1000"], "trainer.devices=1000, but this machine has"),
    (["trainer=gpu"], "this machine has no GPU that torch can use"),
    (["data.batch_size=0"], "data.batch_size must be at least 1, got 0"),
    (["objective.accumulate=3"], "objective.accumulate=3 does not divide the 4 sequences"),
    (["objective.accumulate=0"], "objective.accumulate must be at least 1, got 0"),
    (
        ["objective.schedule.shape=linear"],
        "objective.schedule.shape=linear: must be one of cosine, const",
    ),
    (["data.path=no/such/file"], "no/such/file"),
    (["optimizer.lr=null"], "objective.codebook_lr: a product of 0.1 and null is no number"),
    (["optimizer.lr=true"], "optimizer.lr=true: must be a number"),
    (["optimizer.betas=[0.9]"], "optimizer.betas=[0.9]: must be a list of 2, each a number"),
    (["model.quantizer=5"], "model.quantizer=5: must be a node with _target_"),
    (["logger.csv=4"], "logger.csv=4: must be a node with _target_, or null"),
    (["data.batch_size=1.5"], "data.batch_size=1.5: must be a whole number"),
    (["trainer.max_steps=soon"], "trainer.max_steps=soon: must be a whole number"),
    (["model.num_heads=3"], "3"),
    (["seed=-1"], "seed"),
    (["optimizer.lr=-1"], "optimizer: Invalid learning rate: -1"),
    (["trainer.max_steps=-1"], "trainer.max_steps"),
    (["+optimizer.momentum=0.9"], "momentum"),
    (["trainer.max_steps=null"], "trainer.max_steps"),
    (["data.windows=sorted"], "windows"),
    (["model.context_length=100000"], "context_length"),
    (["ckpt_path=nowhere/last.ckpt"], "ckpt_path=nowhere/last.ckpt: no such file"),
]


SELDOM = (
    "experiment=none_such",
    "trainer.max_step=3",
    "model.placement=behind",
    "data.batch_size=0",
    "model.quantizer.estimator=gumbel",
    "objective.accumulate=0",
    "data.windows=sorted",
    "objective.schedule.warmup=3",
    "trainer.max_steps=null",
)
"""Errors of a kind that others here stand for: by hand."""


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        pytest.param(*each, marks=[pytest.mark.slow] * (each[0][0] in SELDOM), id=" ".join(each[0]))
        for each in ERRORS
    ],
)
def test_what_a_user_gets_wrong_is_one_line_with_status_one(
    corpus, tmp_path, capfd, monkeypatch, wrong, line
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = train(corpus, tmp_path, *wrong)
    out, err = capfd.readouterr()
    errors = [said for said in err.splitlines() if said.startswith("crystalline.run: ")]
    assert run.status == 1, err
    assert len(errors) == 1, err
    assert errors[0] == err.splitlines()[-1]  # nothing after it, so no traceback
    assert "Traceback" not in err
    assert line in errors[0]
    assert "HYDRA_FULL_ERROR" not in errors[0], "it is explained, not passed on"
    assert out == ""
    assert not (tmp_path / "summary.json").exists()


def test_a_corpus_that_is_neither_here_nor_reachable_is_one_line(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("CRYSTALLINE_DATA_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("CRYSTALLINE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    for name in ("lovecraft", "wikitext2"):
        run = command("run", tmp_path, f"data={name}", f"hydra.run.dir={tmp_path / name}")
        said = capfd.readouterr().err.splitlines()
        assert run.status == 1
        assert said[-1].startswith("crystalline.run: ")
        assert "data.path" in said[-1]
        assert "CRYSTALLINE_DATA_DIR" in said[-1]
        assert not any("Traceback" in line for line in said)


def test_what_went_wrong_stays_in_the_run_folder(corpus, tmp_path):
    train(corpus, tmp_path, "objective.accumulate=3")
    assert "objective.accumulate=3" in (tmp_path / "error.txt").read_text()
    assert "Traceback" in (tmp_path / "run.log").read_text()


def test_settings_are_kept_as_they_were_typed(finished, corpus):
    config = (finished.folder / ".hydra" / "overrides.yaml").read_text()
    assert "- model=ziggurat" in config
    assert json.loads(json.dumps(finished.summary)) == finished.summary
    assert set(arguments(corpus, finished.folder)) >= set(finished.summary["overrides"])
