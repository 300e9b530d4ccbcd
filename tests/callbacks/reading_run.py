"""A run small enough for tests of callbacks that read: a short text, byte by byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch.nn.functional import cross_entropy

from crystalline.contract import LanguageModel
from crystalline.tokenizer import ByteTokenizer, Tokenizer
from datamodules.batch import IGNORED, Batch

TEXT = b"In the low house by the sea, he saw the old man. Who was it? Nobody knew. " * 20


class Windows:
    """Endless batches, drawn with the global random numbers that training uses."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def __iter__(self) -> Iterator[Batch]:
        ids = torch.tensor(list(TEXT)) % self.vocab_size
        while True:
            starts = torch.randint(len(ids) - 17, (2,))
            yield Batch(*(torch.stack([ids[s + d : s + d + 16] for s in starts]) for d in (0, 1)))


class Listed(list[Batch]):
    """Batches in order; beginning draws a random number, as PyTorch's data loader does."""

    def __iter__(self) -> Iterator[Batch]:
        torch.randint(9, ())
        return super().__iter__()


class Bytes(L.LightningDataModule):
    is_text = True

    def __init__(self, tokenizer: Tokenizer | None = None, generated: bool = False) -> None:
        super().__init__()
        self.tokenizer = tokenizer or ByteTokenizer()
        self.generated = generated

    def train_tokens(self) -> np.ndarray | None:
        return None if self.generated else np.frombuffer(TEXT, dtype=np.uint8)

    def train_dataloader(self) -> Windows:
        return Windows(self.tokenizer.vocab_size)

    def val_dataloader(self) -> Listed:
        ids = torch.tensor(list(TEXT[:104]))
        whole = Batch(ids[:96].reshape(6, 16), ids[1:97].reshape(6, 16))
        short = torch.full((1, 16), IGNORED)
        short[0, :7] = ids[97:104]
        rest = Batch(torch.cat([ids[96:], ids.new_zeros(8)])[None], short).padded(3)
        return Listed([whole.rows(0, 3), whole.rows(3, 6), rest])

    def train_eval_dataloader(self) -> Listed:
        ids = torch.tensor(list(TEXT[200:232])).reshape(2, 16)
        return Listed([Batch(ids, ids)])


class Learner(L.LightningModule):
    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model
        self.losses: list[float] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = cross_entropy(self.model(batch.tokens).logits.transpose(1, 2), batch.targets)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Lightning warns without one."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(
    folder: Path,
    model: LanguageModel,
    *callbacks: L.Callback,
    data: Bytes | None = None,
    max_steps: int = 5,
) -> Learner:
    """Train for a few rounds, dropout on; the global random state is seeded here."""
    torch.manual_seed(0)
    learner = Learner(model)
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=max_steps,
        max_epochs=-1,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(learner, datamodule=data or Bytes())
    return learner
