"""Pictures and films of parts that grow."""

from __future__ import annotations

from typing import Any

import lightning
import torch

from callbacks.run_folder import save_artifact
from callbacks.undisturbed import undisturbed
from crystalline.errors import UserError
from crystalline.interpret.growth_frames import GrowthRecord
from crystalline.interpret.growth_pictures import growth_pictures
from crystalline.sampling import sample


class GrowthPictures(lightning.Callback):
    """Takes snapshots of the model's parts that grow (`LanguageModel.census`) and draws them.

    When training ends, by a signal too, `growth.npz`, `growth.png`, `growth.gif` and, where there
    is ffmpeg, `growth.mp4` are written into the run folder: after the checkpoint, since drawing
    takes seconds. The record is in checkpoints, so a resumed run draws the whole training. Rank 0
    works alone. It must come after the callback that ends epochs. Models without such parts are
    left alone.

    Args:
        every: Epochs between snapshots, the model's own (`LanguageModel.epochs`); besides the first
            and the last.
        sample_tokens: Length of the text that is written at each snapshot; 0: none.
        seed: Of the text, at every snapshot the same.

    Raises:
        UserError: If a number is too small.
    """

    def __init__(self, every: int, sample_tokens: int, seed: int) -> None:
        for name, value, least in (("every", every, 1), ("sample_tokens", sample_tokens, 0)):
            if value < least:
                raise UserError(f"callbacks.growth_pictures.{name}={value}: give {least} or more")
        self.every = every
        self.sample_tokens = sample_tokens
        self.seed = seed
        self.record = GrowthRecord(0)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.record.epochs = pl_module.model.epochs
        if self._watches(trainer, pl_module) and not self.record.frames:
            self._add(trainer, pl_module, _epoch(trainer.global_step, pl_module))

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._watches(trainer, pl_module):
            return
        step = trainer.global_step
        before, now = _epoch(step - 1, pl_module), _epoch(step, pl_module)
        if pl_module.logs_now:
            self._note("loss/prediction", trainer, pl_module)
        if now // self.every > before // self.every or before < now == self.record.epochs:
            self._add(trainer, pl_module, now)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if fitting and self._watches(trainer, pl_module):
            self._note("val/loss", trainer, pl_module)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if self.record.frames and trainer.is_global_zero:
            save_artifact(trainer, "growth.npz", self.record.to_bytes())
            for name, content in growth_pictures(self.record).items():
                save_artifact(trainer, name, content)

    def state_dict(self) -> dict[str, Any]:
        """The record's .npz file as uint8."""
        return {"record": torch.frombuffer(bytearray(self.record.to_bytes()), dtype=torch.uint8)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.record = GrowthRecord.from_bytes(state_dict["record"].numpy().tobytes())

    def _watches(self, trainer: lightning.Trainer, pl_module: Any) -> bool:
        return trainer.is_global_zero and bool(pl_module.model.epochs)

    def _note(self, name: str, trainer: lightning.Trainer, pl_module: Any) -> None:
        """A point of a curve, one an epoch at most."""
        epoch = trainer.global_step * self.record.epochs / pl_module.total_steps
        known = self.record.losses.get(name)
        if not known or int(known[-1][0]) < int(epoch):
            self.record.note_loss(name, epoch, float(trainer.callback_metrics[name]))

    def _add(self, trainer: lightning.Trainer, pl_module: Any, epoch: int) -> None:
        census = pl_module.model.census()
        if census:
            self.record.add(epoch, census, self._text(trainer, pl_module))

    def _text(self, trainer: Any, pl_module: Any) -> str:
        if not self.sample_tokens:
            return ""
        tokenizer = trainer.datamodule.tokenizer
        with undisturbed(pl_module):
            written = [
                int(token)
                for token in sample(
                    pl_module.model,
                    torch.tensor([[tokenizer.eot_id]]),
                    max_new_tokens=self.sample_tokens,
                    temperature=0.8,
                    generator=torch.Generator().manual_seed(self.seed),
                    stop_id=tokenizer.eot_id,
                )
            ]
        return tokenizer.decode(written)


def _epoch(step: int, pl_module: Any) -> int:
    """Epochs that have ended after so many rounds."""
    return pl_module.model.epochs_after(step, pl_module.total_steps)
