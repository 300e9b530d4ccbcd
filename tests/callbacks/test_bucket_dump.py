from __future__ import annotations

import json
import logging
import types

import pytest
import torch
from omegaconf import OmegaConf

from callbacks.bucket_dump import BucketDump
from crystalline.command import CONF_DIR
from crystalline.errors import UserError
from crystalline.interpret.buckets import BucketTable
from tests.callbacks.reading_run import TEXT, Bytes, fit
from tests.tiny_models import Plain, RunningMean


def bucket_dump(**changes) -> BucketDump:
    arguments = {
        "every_n_steps": 2,
        "positions": 1000,
        "split": "val",
        "top_buckets": 3,
        "top_strings": 4,
        "sort": "count",
        "baselines": True,
    }
    return BucketDump(**{**arguments, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(folder, RunningMean(), bucket_dump())
    return folder / "buckets"


def test_dumps_stand_at_the_start_at_intervals_and_at_the_end(run):
    assert sorted(path.name for path in run.iterdir()) == [
        "code_pages.txt",
        "coherence.json",
        "early_late.txt",
        *(f"step_000000{n}.{end}" for n in (0, 2, 4, 5) for end in ("json", "txt")),
    ]


def test_the_table_counts_every_scored_token_once_and_no_padding(run):
    table = BucketTable.from_json((run / "step_0000002.json").read_text())
    assert (table.step, table.n_tokens) == (2, 96 + 7)
    counts = {(b.site, b.level): 0 for b in table.buckets}
    for bucket in table.buckets:
        counts[bucket.site, bucket.level] += bucket.n_positions
    assert counts["choice", 0] == counts["choice", 1] == 103
    assert counts["top", 0] == 103 * 3
    assert counts["pairs", 1] == 48 + 3
    strings = {s for b in table.of("choice", 0) for s, _ in b.strings}
    assert strings <= {chr(byte) for byte in TEXT}


def test_early_and_late_are_the_runs_first_and_last_dump(run):
    text = (run / "early_late.txt").read_text()
    assert "step 0 (left) and step 5 (right)" in text
    assert "choice level 1" in text


def test_coherence_has_every_site_level_and_reference(run):
    figures = json.loads((run / "coherence.json").read_text())
    assert figures["step"] == 5
    assert set(figures["sites"]) == {"choice", "pairs", "top", "segments"}
    assert len(figures["sites"]["choice"]["levels"]) == 2
    assert "kmeans_inputs" in figures["sites"]["pairs"]["references"]
    assert "kmeans_embedding" in figures["sites"]["top"]["references"]
    assert figures["n_tokens"] == figures["n_reference_tokens"] == 103


def test_references_are_computed_on_a_part_of_a_long_text(tmp_path, monkeypatch):
    monkeypatch.setattr("callbacks.bucket_dump._REFERENCE_TOKENS", 40)
    fit(tmp_path, RunningMean(), bucket_dump(), max_steps=1)
    figures = json.loads((tmp_path / "buckets" / "coherence.json").read_text())
    assert (figures["n_tokens"], figures["n_reference_tokens"]) == (103, 32)


def test_without_references_the_sites_own_figures_remain(tmp_path):
    fit(tmp_path, RunningMean(), bucket_dump(baselines=False), max_steps=1)
    figures = json.loads((tmp_path / "buckets" / "coherence.json").read_text())
    assert set(figures["sites"]["choice"]) == {"levels", "prefixes"}


def test_training_is_the_same_with_and_without_dumps(tmp_path):
    alone = fit(tmp_path / "a", RunningMean()).losses
    watched = fit(tmp_path / "b", RunningMean(), bucket_dump()).losses
    assert watched == alone
    assert len(set(alone)) == 5


def test_models_without_codes_leave_no_files(tmp_path):
    fit(tmp_path, Plain(), bucket_dump())
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_compares_with_the_first_dump_of_its_folder(tmp_path):
    fit(tmp_path, RunningMean(), bucket_dump(baselines=False), max_steps=2)
    (tmp_path / "buckets" / "early_late.txt").unlink()
    late = bucket_dump(baselines=False)
    late.on_train_start = types.MethodType(lambda *_: None, late)  # as at a step above 0
    fit(tmp_path, RunningMean(seed=1), late, max_steps=4)
    assert "step 0 (left) and step 4" in (tmp_path / "buckets" / "early_late.txt").read_text()


def test_the_log_shows_one_site_for_each_number_of_tokens_a_position(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="callbacks.bucket_dump"):
        fit(tmp_path, RunningMean(), bucket_dump(every_n_steps=0, baselines=False), max_steps=1)
    shown = [r.getMessage() for r in caplog.records if r.name == "callbacks.bucket_dump"]
    assert len(shown) == 2  # step 0 and the end
    assert "choice level 0" in shown[0]
    assert "pairs level 0" in shown[0]
    assert "choice level 1" in shown[0]
    assert "top level 0" not in shown[0]  # as many tokens a position as "choice"


@pytest.mark.parametrize(("positions", "tokens"), [(1, 16), (40, 32), (1000, 103)])
def test_no_more_tokens_are_read_than_asked_for_but_one_window(tmp_path, positions, tokens):
    fit(tmp_path, RunningMean(), bucket_dump(positions=positions, baselines=False), max_steps=1)
    text = (tmp_path / "buckets" / "step_0000001.json").read_text()
    assert BucketTable.from_json(text).n_tokens == tokens


def test_the_training_text_can_be_read_instead(tmp_path):
    fit(tmp_path, RunningMean(), bucket_dump(split="train", baselines=False), max_steps=1)
    table = BucketTable.from_json((tmp_path / "buckets" / "step_0000001.json").read_text())
    assert table.n_tokens == 32


@pytest.mark.parametrize(
    ("name", "value"),
    [("split", "test"), ("sort", "size"), ("positions", 0), ("every_n_steps", -1)],
)
def test_wrong_arguments_are_one_line_that_names_the_key(name, value):
    with pytest.raises(UserError, match=rf"callbacks\.bucket_dump\.{name}={value}: give"):
        bucket_dump(**{name: value})


def test_the_configuration_states_every_argument():
    block = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "callbacks" / "_buckets.yaml"))
    arguments = block["bucket_dump"]
    assert arguments.pop("_target_") == "callbacks.bucket_dump.BucketDump"
    assert BucketDump(**arguments).positions == 100_000


def test_rank_zero_alone_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.Trainer.is_global_zero", False)
    fit(tmp_path, RunningMean(), bucket_dump(), data=Bytes(), max_steps=1)
    assert not (tmp_path / "buckets").exists()
    assert torch.is_grad_enabled()
