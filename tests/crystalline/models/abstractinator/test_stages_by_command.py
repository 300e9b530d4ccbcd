"""The stages as whole runs: entropy model, levels cut by it, a top over them."""

import shutil
from pathlib import Path

import pytest
import torch

import crystalline
from tests.running import QUIET, SHORT, Finished, command, resume

TEXT = ("data=text", "data.eval_batch_size=64", "data.batch_size=4", *QUIET, *SHORT)
LITTLE = ("trainer.limit_val_batches=2", "trainer.limit_test_batches=1")
ENTROPY = ("model.entropy.d_model=8", "model.entropy.num_layers=1", "model.entropy.num_heads=2")
LEVELS = (
    *("model.d_model=16", "model.num_heads=2", "model.expander.num_layers=1"),
    *("model.top.d_model=16", "model.quantizer.codebook_size=8", "model.quantizer.update=ema"),
)
TOP = ("model.top.d_model=16", "model.top.num_layers=2", "model.top.num_heads=2")


def run(corpus: Path, folder: Path, stage: str, *more: str) -> Finished:
    """Of a stage, tiny."""
    where = (f"data.path={corpus}", f"hydra.run.dir={folder}")
    name = f"experiment=abstractinator_{stage}"
    return command("run", folder, name, *TEXT, *LITTLE, "model.context_length=24", *where, *more)


@pytest.fixture(scope="module")
def stages(corpus, tmp_path_factory) -> dict[str, Finished]:
    """Each on the one before; what a stage stood on is moved away before the next one."""
    folder = tmp_path_factory.mktemp("stages")
    entropy = run(corpus, folder / "entropy", "entropy", *ENTROPY)
    copy = shutil.copytree(entropy.folder, folder / "copy")
    cut = f"model.entropy_base={copy}"
    levels = run(corpus, folder / "levels", "stage1", *ENTROPY, *LEVELS, cut)
    shutil.rmtree(copy)
    copy = shutil.copytree(levels.folder, folder / "copy")
    often = ("callbacks.usage.positions=1", "callbacks.dead_codes.every_n_steps=1")
    top = run(corpus, folder / "top", "stage2", *TOP, *often, f"model.base={copy}")
    shutil.rmtree(copy)
    assert [entropy.status, levels.status, top.status] == [0, 0, 0]
    return {"entropy": entropy, "levels": levels, "top": top}


def test_frozen_parts_are_in_the_last_checkpoint_bit_for_bit(stages):
    entropy = crystalline.load(stages["entropy"].best).model
    levels = crystalline.load(stages["levels"].best).model
    inside = levels.get_submodule("levels.0.compressor.entropy_model").state_dict()
    given = entropy.get_submodule("entropy_model").state_dict()
    assert inside.keys() == given.keys()
    assert all(torch.equal(inside[name], value) for name, value in given.items())
    top = crystalline.load(stages["top"].last).model
    held, before = (model.get_submodule("levels").state_dict() for model in (top, levels))
    assert held.keys() == before.keys()
    assert all(torch.equal(held[name], value) for name, value in before.items())
    assert before["0.compressor.quantizer.counts"].sum() > 0


def test_each_stage_logs_its_own_losses(stages):
    columns = {
        name: {key for key in done.rows[0] if key.startswith("loss/")} - {"loss/total"}
        for name, done in stages.items()
    }
    assert columns["entropy"] == {"loss/prediction"}
    assert columns["top"] == {"loss/prediction", "loss/top_lm"}
    assert "loss/entropy_model" not in columns["levels"]
    assert {"loss/codebook", "loss/reconstruction"} < columns["levels"]
    assert not any(key.startswith("codebook/") for key in stages["top"].rows[0])
    assert all(float(done.column("val/loss")[-1]) > 0 for done in stages.values())


def test_a_base_of_another_kind_is_one_line(corpus, stages, tmp_path, capfd):
    wrong = (
        ("stage2", stages["entropy"], "base", TOP, "model.base must be a run of"),
        ("stage1", stages["levels"], "entropy_base", LEVELS, "model.entropy_base must be a run of"),
        ("stage1", stages["entropy"], "entropy_base", LEVELS, "model.entropy.d_model=64: "),
    )
    for stage, base, key, sizes, line in wrong:
        done = run(corpus, tmp_path, stage, *sizes, f"model.{key}={base.folder}")
        assert done.status == 1
        said = capfd.readouterr().err.splitlines()
        assert said[-1].startswith(f"crystalline.run: model: {line}"), said[-1]
        assert "Traceback" not in "".join(said)


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_a_checkpoint_with_one_tensor_more_or_less_is_no_base(
    corpus, stages, tmp_path, capfd, change
):
    state = torch.load(stages["levels"].best, weights_only=True)
    name = "model.levels.0.expander.norm.weight"
    weight = state["state_dict"][name]
    if change == "missing":
        del state["state_dict"][name]
    else:
        state["state_dict"][f"{name}_two"] = weight
    torch.save(state, tmp_path / "changed.ckpt")
    done = run(corpus, tmp_path, "stage2", *TOP, f"model.base={tmp_path / 'changed.ckpt'}")
    assert done.status == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert "holds weights of another model than its config says" in line
    assert "levels.0.expander.norm.weight" in line


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_without_its_base(corpus, stages, tmp_path):
    options = (*TOP, "trainer.max_steps=8", "trainer.val_check_interval=4")
    stop = "+callbacks.stop={_target_: tests.running.Stop, step: 3, signal: SIGTERM}"
    copy = tmp_path / "base.ckpt"
    shutil.copy(stages["levels"].last, copy)  # without its checksum
    base = f"model.base={copy}"
    whole = run(corpus, tmp_path / "whole", "stage2", *options, base)
    parts = run(corpus, tmp_path / "parts", "stage2", *options, base, stop)
    copy.unlink()
    assert parts.column("step")[-1] == "4"
    assert resume(parts.last).status == 0
    assert parts.losses() == whole.losses()
    weights = [torch.load(done.last, weights_only=True)["state_dict"] for done in (whole, parts)]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
