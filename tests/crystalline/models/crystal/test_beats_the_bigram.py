"""A field with attention learns more than which token follows which."""

import os
from pathlib import Path

import numpy as np
import pytest

from crystalline.metrics.ngram import NGram
from datamodules.corpora.tinyshakespeare import TinyShakespeare
from datamodules.text import TextDataModule
from datamodules.tokenizer_builders import TrainedBPE
from tests.running import command

DATA = Path(os.environ.get("CRYSTALLINE_DATA_DIR", "data"))


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.skipif(not (DATA / "tinyshakespeare").is_dir(), reason="needs TinyShakespeare")
def test_validation_loss_falls_below_that_of_an_interpolated_bigram(tmp_path):
    run = command(
        "run", tmp_path, "model=crystal", "data=tinyshakespeare", "data.batch_size=32",
        "model.context_length=64", "data.tokenizer.vocab_size=1024", "optimizer.lr=2e-3",
        "trainer.max_steps=800", "trainer.val_check_interval=200", "trainer=cpu", "logger=csv",
        "~callbacks.bucket_dump", "~callbacks.text_samples", f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert run.status == 0
    data = TextDataModule(
        TinyShakespeare(str(DATA), "", ""), TrainedBPE(1024), seq_len=64, batch_size=1,
        eval_batch_size=1, windows="shuffle", stride=64, seed=0,
        cache_dir=os.environ["CRYSTALLINE_CACHE_DIR"],
    )  # fmt: skip
    data.setup()
    bigram = NGram(np.asarray(data.streams["train"].ids), 1024, 2)
    text = np.asarray(data.streams["val"].ids, dtype=np.int64)[None]
    nats = -np.log(bigram.probabilities(text[:, :-1], text[:, 1:])).mean()
    assert run.summary["val/loss"] < nats
