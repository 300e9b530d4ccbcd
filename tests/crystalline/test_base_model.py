"""Models that stand on trained ones, as whole runs."""

import shutil

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import crystalline
from crystalline.base_model import take_bases
from crystalline.errors import UserError
from crystalline.tokenizer import DigitTokenizer
from tests.running import QUIET, SHORT, Finished, command, resume, train

SAE = (
    "model=sae",
    "model.context_length=16",
    "model.codebook_size=16",
    "model.num_codes_k=2",
    "model.dead_positions=200",
    "model.sites.places=[mlp]",
)


def fit(corpus, folder, base, *more: str) -> Finished:
    text = ("data=text", f"data.path={corpus}", "tokenizer@data.tokenizer=bytes")
    size = ("data.batch_size=4", "data.eval_batch_size=64")
    run = (*QUIET, *SHORT, f"hydra.run.dir={folder}", f"model.base={base}")
    return command("run", folder, *SAE, *text, *size, *run, *more)


@pytest.fixture(scope="module")
def base(corpus, tmp_path_factory) -> Finished:
    return train(corpus, tmp_path_factory.mktemp("base"), model="transformer")


@pytest.fixture(scope="module")
def finished(corpus, base, tmp_path_factory) -> Finished:
    """Of a copy of the base that is gone afterwards."""
    copy = tmp_path_factory.mktemp("copy") / "base"
    shutil.copytree(base.folder, copy)
    run = fit(corpus, tmp_path_factory.mktemp("sae"), copy)
    assert run.status == 0
    shutil.rmtree(copy)
    return run


def test_the_checkpoint_stands_alone_and_holds_the_base_unchanged(base, finished):
    loaded = crystalline.load(finished.last)
    trained = crystalline.load(base.best).model.state_dict()
    inside = loaded.model.get_submodule("base").state_dict()
    assert inside.keys() == trained.keys()
    assert all(torch.equal(value, trained[name]) for name, value in inside.items())
    assert loaded.config["model"]["base"]["_target_"].endswith(".Transformer")
    output = loaded.model(torch.zeros(1, 16, dtype=torch.int64), codes=True)
    assert list(output.codes) == ["layers.0.mlp.group.0"]


def test_training_logs_the_base_and_evaluation_what_splicing_costs(base, finished):
    assert float(finished.column("loss/reconstruction")[-1]) > 0
    assert set(finished.column("lr/codes")) != set()
    assert finished.summary["val/loss"] != base.summary["val/loss"]
    assert finished.summary["parameters"] > base.summary["parameters"]


@pytest.mark.slow
def test_six_rounds_and_six_more_are_twelve_without_the_base(corpus, base, finished, tmp_path):
    options = ("trainer.max_steps=8", "trainer.val_check_interval=4")
    stop = "+callbacks.stop={_target_: tests.running.Stop, step: 3, signal: SIGTERM}"
    copy = tmp_path / "base.ckpt"
    shutil.copy(base.last, copy)  # without its checksum
    whole = fit(corpus, tmp_path / "whole", copy, *options)
    parts = fit(corpus, tmp_path / "parts", copy, *options, stop)
    copy.unlink()
    assert parts.column("step")[-1] == "4"
    assert resume(parts.last).status == 0
    assert parts.losses() == whole.losses()
    weights = [torch.load(run.last, weights_only=True)["state_dict"] for run in (whole, parts)]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())


def test_a_run_without_a_base_is_refused_in_one_line(corpus, tmp_path, capfd):
    assert fit(corpus, tmp_path, "null").status == 1
    assert capfd.readouterr().err.splitlines()[-1] == (
        "crystalline.run: model.base: give a checkpoint or the folder of a run, model.base=<run>"
    )


def node(base: object, **more: object) -> DictConfig:
    target = "crystalline.models.sae.SparseAutoencoders"
    return OmegaConf.create({"_target_": target, "base": str(base), "num_codes_k": 2, **more})


def test_a_base_that_cannot_be_read_is_named(base, tmp_path):
    tokenizer = crystalline.load(base.last).tokenizer
    gone = tmp_path / "nothing.ckpt"
    with pytest.raises(UserError, match=f"there is no checkpoint {gone}"):
        take_bases(node(gone), tokenizer)
    with pytest.raises(UserError, match=r"there is no checkpoint .*best\.ckpt"):
        take_bases(node(tmp_path), tokenizer)
    torch.save({"state_dict": {}}, gone)
    with pytest.raises(UserError, match=f"{gone} is no checkpoint of this suite"):
        take_bases(node(gone), tokenizer)


def test_a_base_of_another_vocabulary_is_refused(base):
    with pytest.raises(UserError) as caught:
        take_bases(node(base.last), DigitTokenizer())
    assert str(caught.value) == (
        f"model.base={base.last} has another vocabulary (257 ids) than the data (11 ids); "
        "name data of the base's own kind"
    )


def test_what_an_experiment_says_of_the_base_must_be_so(base):
    tokenizer = crystalline.load(base.last).tokenizer
    with pytest.raises(UserError) as caught:
        take_bases(node(base.folder, d_model=32), tokenizer)
    assert str(caught.value) == f"model.d_model=32: model.base={base.folder} has d_model=16"
    model = node(base.folder, d_model=16, num_layers=1, depth=3)
    assert list(take_bases(model, tokenizer)) == ["base"]
    assert set(model) == {"_target_", "base", "num_codes_k", "depth"}  # the last is a mistake
    assert model.base.d_model == 16
    assert take_bases(model, tokenizer) == {}  # as in a run that is resumed


def test_a_run_folder_stands_for_its_best_weights(base, tmp_path):
    tokenizer = crystalline.load(base.last).tokenizer
    shutil.copytree(base.folder, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "last.ckpt").unlink()
    weights = take_bases(node(tmp_path / "run"), tokenizer)["base"].state_dict()
    expected = crystalline.load(base.best).model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
