"""Pictures of growth: when snapshots are taken, and what is left in the run folder."""

from unittest.mock import MagicMock

import pytest
import torch
from lightning import LightningModule, Trainer

from callbacks import growth_pictures
from callbacks.growth_pictures import GrowthPictures
from crystalline.errors import UserError
from crystalline.interpret.growth_frames import GrowthRecord
from crystalline.tokenizer import ByteTokenizer
from tests.callbacks.growing_run import GROWING
from tests.crystalline.interpret.growing import census
from tests.running import resume, train
from tests.tiny_models import RunningMean


def grow(corpus, folder, *more):
    chosen = ("callbacks=growth_pictures", "callbacks.growth_pictures.every=3", *more)
    return train(
        corpus, folder, *GROWING, *chosen, "callbacks.growth_pictures.sample_tokens=5",
        model="transformer",
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    return grow(corpus, tmp_path_factory.mktemp("whole"))


def test_a_run_leaves_its_record_a_picture_and_a_film(whole):
    assert whole.status == 0
    record = GrowthRecord.load(whole.folder / "growth.npz")
    assert [frame.epoch for frame in record.frames] == [0, 3, 4]  # the last one always
    (site,) = record.sites()
    counts = [len(frame.fields[site]["row"]) for frame in record.frames]
    assert counts[0] == 4
    assert counts[1] > 4  # births of the epoch that ended are in its snapshot
    assert counts == sorted(counts)
    assert all(frame.text for frame in record.frames)
    assert record.epochs == 4
    assert [epoch for epoch, _ in record.losses["loss/prediction"]] == [1, 2, 3, 4]
    assert record.losses["val/loss"] == [(4, pytest.approx(float(whole.column("val/loss")[-1])))]
    assert (whole.folder / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert (whole.folder / "growth.gif").read_bytes().startswith(b"GIF89a")


@pytest.mark.slow
def test_an_interrupted_run_has_its_record_and_the_resumed_one_goes_on(
    corpus, tmp_path, whole, monkeypatch
):
    monkeypatch.setattr(growth_pictures, "growth_pictures", lambda record: {"growth.png": b""})
    part = grow(corpus, tmp_path, "+callbacks.stop={_target_: tests.running.Stop, step: 2}")
    assert part.status == 143
    before = GrowthRecord.load(part.folder / "growth.npz")
    assert [frame.epoch for frame in before.frames] == [0, 3]
    assert (part.folder / "growth.png").exists()
    (part.folder / "growth.npz").unlink()  # the checkpoint is enough
    assert resume(part.last).status == 0
    both = [(run.folder / "growth.npz").read_bytes() for run in (whole, part)]
    assert both[0] == both[1]


class Grower(RunningMean):
    """Answers with a census; has dropout."""

    epochs = 3

    def census(self):
        return {"field": census([0, 4], [-1, 0])}


def hooks(folder, model, callback, rounds):
    """What Lightning calls in a training of six rounds, of which so many are done."""
    module = MagicMock(spec=LightningModule, device=torch.device("cpu"))
    module.model, module.total_steps, module.logs_now = model, 6, True
    trainer = MagicMock(
        spec=Trainer, is_global_zero=True, global_step=0, default_root_dir=folder, loggers=[],
        callback_metrics={"loss/prediction": torch.tensor(2.5)},
    )  # fmt: skip
    trainer.datamodule = MagicMock(tokenizer=ByteTokenizer())
    callback.on_train_start(trainer, module)
    for step in range(1, rounds + 1):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, None, step - 1)
    callback.on_fit_end(trainer, module)


def test_snapshots_leave_training_and_its_random_numbers_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(growth_pictures, "growth_pictures", lambda record: {})
    model = Grower().train()
    before = torch.random.get_rng_state()
    callback = GrowthPictures(every=1, sample_tokens=4, seed=0)
    hooks(tmp_path, model, callback, rounds=5)
    assert [frame.epoch for frame in callback.record.frames] == [0, 1, 2]
    assert len({frame.text for frame in callback.record.frames}) == 1  # one seed, one text
    assert callback.record.losses == {"loss/prediction": [(0.5, 2.5), (1.0, 2.5), (2.0, 2.5)]}
    assert torch.equal(before, torch.random.get_rng_state())
    assert model.training


def test_models_that_do_not_grow_have_no_pictures(tmp_path):
    without_epochs, without_members = RunningMean(), RunningMean()
    without_members.epochs = 3
    for model in (without_epochs, without_members):
        hooks(tmp_path, model, GrowthPictures(every=1, sample_tokens=4, seed=0), rounds=6)
    assert not list(tmp_path.iterdir())


def test_the_state_is_a_tensor_that_any_checkpoint_may_hold():
    callback = GrowthPictures(every=1, sample_tokens=0, seed=0)
    callback.record.note_loss("val/loss", 1.0, 2.0)
    state = callback.state_dict()
    assert state["record"].dtype == torch.uint8
    other = GrowthPictures(every=1, sample_tokens=0, seed=0)
    other.load_state_dict(state)
    assert other.record.losses == {"val/loss": [(1.0, 2.0)]}


def test_numbers_that_are_too_small_are_named():
    with pytest.raises(UserError, match=r"callbacks\.growth_pictures\.every=0: give 1 or more"):
        GrowthPictures(every=0, sample_tokens=0, seed=0)
    with pytest.raises(UserError, match=r"sample_tokens=-1: give 0 or more"):
        GrowthPictures(every=1, sample_tokens=-1, seed=0)
