"""A trained model's segments in the log, in the summary and in the run folder."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from hydra.utils import instantiate
from lightning import Trainer

from callbacks.code_use import CodeUse
from callbacks.segments import Segments, _documents
from crystalline.errors import UserError
from crystalline.interpret.buckets import BucketTable
from crystalline.tokenizer import ByteTokenizer
from datamodules.tokenizer_builders import GPT2
from tests.composing import composed
from tests.running import MODELS, SHORT, SMALL, Finished, command, train
from tests.tiny_models import Plain

CUTTING = (
    *MODELS["abstractinator"],
    "model.num_levels=2",
    "model.mode=discrete",
    "model.segmentation={rule: relative, delta_bits: 0.05, max_length: 4, min_mean_length: 1.0}",
    "model.segmentation.mean_length=null",
    "model.upper_segmentation=null",
    "model.encoder.window=8",
    "model.expander.num_layers=1",
    "callbacks=segments",
    "callbacks.segments={positions: 320, windows: 2, draws: 2, bpe: {vocab_size: 300}}",
    "callbacks.code_use.positions=320",
    "callbacks.reconstruction.positions=320",
    "callbacks.bucket_dump={every_n_steps: 0, positions: 320, baselines: false}",
    "trainer=cpu",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "logger=csv",
    "~callbacks.text_samples",
)
SITES = [f"levels.{level}.compressor.quantizer" for level in (0, 1)]
ARGUMENTS: dict[str, Any] = {
    "positions": 1,
    "bpe": None,
    "bpe_tokens": 1,
    "cache_dir": "",
    "draws": 1,
    "windows": 1,
    "seed": 0,
}


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("segments")
    source = ("data=bytes", f"data.path={corpus.parent}", "data.batch_size=4")
    finished = command(
        "run",
        folder,
        *CUTTING,
        *SMALL,
        *SHORT,
        *source,
        "trainer.val_check_interval=2",
        f"hydra.run.dir={folder}",
    )
    assert finished.status == 0
    return finished


def of(run: Finished, start: str) -> dict[str, float]:
    return {name: value for name, value in run.summary.items() if name.startswith(start)}


def test_what_codes_give_back_is_there_by_the_length_of_segments(run):
    every, *rows = json.loads((run.folder / "reconstruction.json").read_text())
    assert every["length"] == 0
    assert every["positions"] == sum(row["positions"] for row in rows) > 0
    assert max(row["length"] for row in rows) <= 4  # no segment is longer
    assert run.summary["reconstruction/accuracy"] == every["accuracy"]
    tokens, codes = (run.summary[f"two_part/{part}_bpb"] for part in ("token", "code"))
    assert run.summary["two_part/bpb"] == tokens + codes > 8  # hardly trained: a byte alone says 8


def test_figures_are_in_the_summary_and_in_the_run_folder(run):
    found = json.loads((run.folder / "segments" / "segments.json").read_text())
    assert list(found) == SITES
    assert of(run, "segments/") == {
        f"segments/{site}/{name}": value for site in SITES for name, value in found[site].items()
    }
    low, high = (found[site] for site in SITES)
    assert 1 <= low["bytes_mean"] <= 4 >= low["bytes_max"]
    assert high["bytes_mean"] > low["bytes_mean"]
    assert high["segments"] < low["segments"]
    assert 0 < low["bpe_f1"] <= 1
    assert 0 < low["word_start_f1_chance"] < 1
    table = (run.folder / "segments" / "segments.txt").read_text()
    assert [line.split()[0] for line in table.splitlines()][1:] == list(low)


def test_every_validation_logs_them(run):
    for name in of(run, "segments/"):
        assert len(run.column(name)) == len(run.column("val/loss")) == 2


def test_the_overlay_has_every_level_of_the_first_windows(run):
    page = (run.folder / "segments" / "overlay.html").read_text()
    text = (run.folder / "segments" / "overlay.txt").read_text()
    for site in SITES:
        assert page.count(f"<h3>{site}</h3>") == text.count(f"{site}\n") == 2
    assert "code " in page


def test_codes_of_segments_have_pages(run):
    pages = (run.folder / "buckets" / "code_pages.txt").read_text()
    table = BucketTable.from_json((run.folder / "buckets" / "step_0000004.json").read_text())
    assert pages.count("\ncode ") == len(table.buckets) > 2


def test_what_codes_are_worth_is_in_the_summary(run):
    found = of(run, "code_use/")
    kinds = ("constant", "shuffled", "constant_bits", "shuffled_bits", "choice_bits", "limit_bits")
    assert set(found) == {
        *(f"code_use/{site}/{kind}" for site in SITES for kind in kinds),
        *(f"code_use/all/{kind}" for kind in kinds[:2]),
    }
    assert all(found[f"code_use/{site}/limit_bits"] == 4 for site in SITES)


def test_models_without_segments_have_no_figures_of_them(corpus, tmp_path):
    run = train(corpus, tmp_path, "callbacks=segments", "callbacks.code_use.positions=64")
    assert run.status == 0
    assert of(run, "segments/") == {}
    assert not (run.folder / "segments").exists()
    assert any(of(run, "code_use/").values())


def test_the_documents_that_a_bpe_learns_from_are_whole_texts():
    ids = np.array([256, *b"one", 256, 256, *"twö".encode(), 256, *"é".encode()[:1]])
    split = _documents(ids.tolist(), ByteTokenizer())
    assert [bytes(each).decode() for each in split] == ["one", "twö"]


def test_models_without_codes_have_neither():
    module, trainer = MagicMock(model=Plain()), MagicMock(spec=Trainer, is_global_zero=False)
    for callback in (Segments(**ARGUMENTS), CodeUse(1, 0)):
        callback.on_test_end(trainer, module)
        assert callback.figures == {}


@pytest.mark.parametrize("name", ["positions", "bpe_tokens", "draws", "windows"])
def test_a_number_out_of_range_is_named(name):
    with pytest.raises(UserError, match=rf"callbacks\.segments\.{name}=0: give 1 or more"):
        Segments(**{**ARGUMENTS, name: 0})
    with pytest.raises(UserError, match=r"callbacks\.code_use\.positions=0: give 1 or more"):
        CodeUse(0, 0)


def test_another_tokenizer_can_be_compared_with():
    config = composed("callbacks=segments", "tokenizer@callbacks.segments.bpe=gpt2")
    assert isinstance(instantiate(config.callbacks.segments.bpe), GPT2)
    bare = composed("callbacks=segments", "callbacks.segments.bpe=null").callbacks.segments
    assert instantiate(bare, cache_dir="").bpe is None
