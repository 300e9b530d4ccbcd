"""The command that measures what context gives, on tiny runs of text and of the state machine."""

import json
import math

import numpy as np
import pytest

import crystalline
from crystalline.context_reading import spans
from crystalline.errors import UserError
from crystalline.metrics.ngram import NGram
from tests.running import Finished, command, train
from tests.tiny_models import Plain

SMALL = ("targets=60", "windows=[1,4,100]", "longest_match=2", "batch_size=16")


@pytest.fixture(scope="module")
def text(corpus, tmp_path_factory) -> Finished:
    """A tiny Ziggurat of two stages that has read words, byte by byte."""
    return train(corpus, tmp_path_factory.mktemp("text"))


def context(run: Finished, *more: str) -> Finished:
    return command("context", run.folder, f"checkpoint={run.folder}", *SMALL, *more)


def found(run: Finished) -> dict:
    return json.loads((run.folder / "context.json").read_text())


def test_tables_json_and_a_picture_are_left_in_the_run_folder(text, capfd):
    assert context(text).status == 0
    said, content = capfd.readouterr().out, found(text)
    assert said.startswith("ziggurat, step 4: 60 targets of text, val\n\nloss after the last")
    assert "windows start at multiples of 2, so most hold more" in said
    assert "difference: model - 3-gram, with its 95 % interval" in said
    windows, matches = content["windows"], content["matches"]
    assert [row["window"] for row in windows] == [1, 4, 15]
    assert all(row["window"] <= row["seen"] <= row["window"] + 1 for row in windows)
    for row in windows:
        assert row["nats"] == pytest.approx(row["bits"] * math.log(2))
        assert row["bpb"] == pytest.approx(row["bits"], rel=0.1)  # a byte a token, but at the end
    assert sum(row["targets"] for row in matches[:-1]) == matches[-1]["targets"] == 60
    last = matches[-1]
    assert last["match"] == "all"
    assert last["model"] == windows[-1]["nats"]
    assert last["3-gram"] == content["ngrams"][-1]["nats"]
    assert last["low"] < last["difference"] == pytest.approx(last["model"] - last["3-gram"])
    assert (text.folder / "context.png").read_bytes().startswith(b"\x89PNG")


def test_the_whole_split_costs_what_evaluation_and_benchmark_say(text, tmp_path):
    output = tmp_path / "all.json"
    asked = ("targets=100000", "windows=[15]", "split=test", f"output={output}")
    assert context(text, *asked).status == 0
    content = json.loads(output.read_text())
    # Windows of an evaluation hold 8 tokens on average, these 15: a model that has learned as
    # little as this one gains nothing by them.
    assert content["windows"][-1]["nats"] == pytest.approx(text.summary["test/loss"], rel=0.02)
    assert content["windows"][-1]["bpb"] == pytest.approx(text.summary["test/bpb"], rel=0.02)
    ids = data_of(text).streams
    rows = ids["test"].ids[None].astype(np.int64)
    for order, row in enumerate(content["ngrams"], 1):
        ngram = NGram(ids["train"].ids, 257, order)
        each = -np.log(ngram.probabilities(rows[:, :-1], rows[:, 1:]))
        assert content["targets"] == each.size
        assert row["nats"] == pytest.approx(each.mean())


def data_of(run: Finished):
    from omegaconf import OmegaConf

    from crystalline import evaluation

    loaded = crystalline.load(run.best)
    return evaluation.data_of(loaded, OmegaConf.create({"paths": loaded.config["paths"]}))


def test_generated_sequences_are_texts_by_themselves(corpus, tmp_path):
    run = train(corpus, tmp_path, "model.context_length=128", model="transformer", data="fsm")
    assert context(run, "ngram_tokens=20000").status == 0
    content = found(run)
    assert content["ngram_tokens"] == 158 * 128  # whole windows, and what follows each
    assert [row["window"] for row in content["windows"]] == [1, 4, 100, 128]
    assert content["windows"][-1]["seen"] < 127  # as many as come before the target
    assert "bpb" not in content["windows"][0]


def test_shuffled_windows_are_texts_by_themselves(text, corpus):
    asked = ("data=text", f"data.path={corpus}", "data.seq_len=6", "data.shuffle_tokens=true")
    assert context(text, *asked, "targets=100000").status == 0
    content = found(text)
    assert content["targets"] == len(data_of(text).streams["val"].ids) - 1  # padding is not scored
    assert content["windows"][-1]["seen"] < 6
    unigram, bigram = (row["nats"] for row in content["ngrams"][:2])
    assert bigram > unigram - 0.2  # order is lost; in the text it is worth a nat


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["windows=[]"], "windows=[]: give whole numbers from 1 on, such as [1,8,64]"),
        (["windows=[4,0]"], "windows=[4, 0]: give whole numbers from 1 on"),
        (["windows=[1.5]"], "windows=[1.5]: give whole numbers from 1 on"),
        (["windows=4"], "windows=4: give whole numbers from 1 on"),
        (["windows=null"], "windows=None: give whole numbers from 1 on"),
        (["targets=0"], "targets=0: give 1 or more"),
        (["targets=many"], "targets=many: give a whole number"),
        (["batch_size=0"], "batch_size=0: give 1 or more"),
        (["longest_match=-1"], "longest_match=-1: give 0 or more"),
        (["split=train"], "split must be one of val, test, got 'train'"),
        (["window=4"], "window: there is no such key"),
        (["checkpoint=null"], "checkpoint: give checkpoint=<run>/checkpoints/last.ckpt"),
        (["checkpoint=nowhere.ckpt"], "nowhere.ckpt"),
        (["data=fsm"], "data=fsm has another vocabulary (11 ids) than the checkpoint (257 ids)"),
        (["checkpoint=README.md"], "README.md"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(text, capfd, arguments, line):
    assert context(text, *arguments).status == 1
    said = capfd.readouterr().err
    assert said.startswith("crystalline.context: ")
    assert line in said
    assert said.count("\n") == 1


def test_too_little_training_text_is_one_line(text, capfd):
    assert context(text, "ngram_tokens=3").status == 1
    line = "longest_match=2: n-grams of order 3 cannot be counted in 3 training tokens here"
    assert f"crystalline.context: {line}" in capfd.readouterr().err


def test_windows_are_cut_to_the_context_and_leave_room_for_alignment():
    model = Plain(context_length=16)
    assert spans(model, [99, 1, 16, 8, 8]) == [1, 8, 16]
    model.alignment = 4
    assert spans(model, [99, 1]) == [1, 13]
    model.alignment = 32
    with pytest.raises(UserError, match=r"model\.context_length=16: windows of this model start"):
        spans(model, [1])
