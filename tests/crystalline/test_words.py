"""The command that reads states in words, on a tiny run."""

import json
import math

import pytest
import torch
from omegaconf import OmegaConf

import crystalline
from crystalline.checkpoint import Loaded
from crystalline.errors import UserError
from crystalline.interpret.buckets import BucketTable
from crystalline.interpret.word_trace import trace
from crystalline.tokenizer import ByteTokenizer
from crystalline.word_reading import read_words
from tests.running import SHORT, Finished, command
from tests.tiny_models import RunningMean

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory) -> Finished:
    """A tiny model that has read words, byte by byte, and dumped its buckets."""
    folder = tmp_path_factory.mktemp("words")
    typed = [
        *("model=vocab/v9_meta", "model.num_steps=2", "model.d_state=4", "model.d_mlp=8"),
        *("model.context_length=16", "data=text", f"data.path={corpus}"),
        *("tokenizer@data.tokenizer=bytes", "data.batch_size=4", "data.eval_batch_size=64"),
        *("logger=csv", "trainer=cpu", "~callbacks.text_samples"),
        *("callbacks.bucket_dump.positions=16", "callbacks.bucket_dump.baselines=false"),
        *(*SHORT, "trainer.max_steps=8", f"hydra.run.dir={folder}"),
    ]
    finished = command("run", folder, *typed)
    assert finished.status == 0
    return finished


def words(run: Finished, *more: str) -> Finished:
    small = ("sequences=8", "bigrams=40", "tests=6", "test_tokens=8")
    return command("words", run.folder, f"checkpoint={run.folder}", *small, *more)


def test_tables_json_and_pictures_are_left_in_the_run_folder(run, capfd):
    assert words(run, "text=the tea", "top=2").status == 0
    said = capfd.readouterr().out
    for title in ("states, delta, what the head reads", "what parts add", "word pairs",
                  "horizons", "changed states", "the text", "scores"):  # fmt: skip
        assert title in said
    found = json.loads((run.folder / "words.json").read_text())
    assert [row["token"] for row in found["text"]] == ["<|endoftext|>", *map(json.dumps, "the tea")]
    assert [row["next"] for row in found["text"]][-2:] == ['"a"', "-"]
    assert found["text"][0]["states"][0]["top"] == ["-", "-"]  # nothing has been added yet
    assert [row["part"] for row in found["parts"]] == [
        "start", *(f"steps.{i}.parts.{j}" for i in (0, 1) for j in (0, 1))
    ][1:]  # fmt: skip
    assert [row["kind"] for row in found["parts"]] == ["DecayMemory", "Bottleneck"] * 2
    assert len(found["tests"]) == 1 * 2 * 2
    assert len(found["maps"]) == 2 * 3
    drawn = {path.name: path.read_bytes() for path in run.folder.glob("*.png")}
    assert set(drawn) == {
        f"words_{name}.png" for name in ("text", "depth", "parts", "pairs", "tests")
    }
    assert all(picture.startswith(PNG) for picture in drawn.values())


def test_figures_are_those_of_the_model(run):
    assert words(run, "text=a tea", "sequences=1000", "tests=0", "bigrams=0").status == 0
    found = json.loads((run.folder / "words.json").read_text())
    assert found["scores"]["loss"] == pytest.approx(run.summary["val/loss"], rel=1e-4)
    assert found["tests"] == []
    assert found["scores"]["faithful"] is None
    loaded = crystalline.load(run.best)
    ids = torch.tensor([[loaded.tokenizer.eot_id, *loaded.tokenizer.encode("a tea")]])
    last = trace(loaded.model, ids).logits.log_softmax(-1)[0]
    for at, row in enumerate(found["text"]):
        assert row["states"][-1]["probability"][0] == pytest.approx(float(last[at].max().exp()))
        assert row["states"][-1]["kl"] == pytest.approx(0, abs=1e-6)
    of_next = sum(part["next_push"] for part in found["text"][2]["parts"].values())
    model = loaded.model
    read = trace(model, ids).last - model.start(ids)
    z = model.head.gamma.detach() * read / (read.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert of_next == pytest.approx(
        float((z - z.mean(-1, keepdim=True))[0, 2, ids[0, 3]]), abs=1e-4
    )
    assert math.isfinite(found["scores"]["lens_kl"])


def test_a_bucket_dump_takes_words_for_codes_of_one_book(run):
    table = BucketTable.from_json((run.folder / "buckets" / "step_0000008.json").read_text())
    assert [(level.site, level.level) for level in table.levels] == [("words.0", 0), ("words.1", 0)]
    for site in ("words.0", "words.1"):
        buckets = table.of(site, 0)
        assert sum(bucket.n_positions for bucket in buckets) == 16 * 8  # tokens, words of each
        assert all(bucket.code < 257 for bucket in buckets)


def test_words_are_searched_and_banned_as_codes_are(run):
    e = ("site=words.1", f"code={ord('e')}", "sequences=1000")  # the whole split
    ask = f"checkpoint={run.folder}"
    assert command("search", run.folder, ask, *e, "pattern=[aeiou]").status == 0
    found = json.loads((run.folder / "search.json").read_text())
    assert {code["site"] for code in found["pattern"]["codes"]} == {"words.1"}
    assert command("intervene", run.folder, ask, *e, "do=deactivate").status == 0
    [row] = json.loads((run.folder / "intervene.json").read_text())["specificity"]
    assert row["fired"] == found["code"]["positions"] > 0
    assert row["fired"] + row["rest"] == found["tokens"]
    assert row["kl_fired"] > 0
    assert row["kl_rest"] < 1e-9  # nothing reads the last state but the head


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["sequences=0"], "sequences=0: give 1 or more"),
        (["test_tokens=2"], "test_tokens=2: give 3 or more"),
        (["split=all"], "split must be one of val, test, train, got 'all'"),
        (["text=" + 17 * "a"], "text: 18 tokens, the opening one included, are more than"),
        (["checkpoint=null"], "checkpoint: give checkpoint=<run>/checkpoints/last.ckpt"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(run, capfd, arguments, line):
    assert words(run, *arguments).status == 1
    assert line in capfd.readouterr().err


def test_a_model_of_another_family_is_refused():
    other = Loaded(RunningMean(), ByteTokenizer(), {}, {}, 0)
    with pytest.raises(UserError, match="checkpoint=x: states of this model are not over words"):
        read_words(other, OmegaConf.create({"checkpoint": "x"}))
