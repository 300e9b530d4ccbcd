from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

import crystalline
from crystalline import chat, generate
from crystalline.command import CONF_DIR
from crystalline.errors import UserError
from crystalline.tokenizer import ByteTokenizer, DigitTokenizer
from tests.tiny_models import RunningMean


class MultiByte(RunningMean):
    """Writes the characters of "é–" over and over, byte by byte."""

    def forward(self, tokens, *, codes=False, edits=None, cache=None):
        output = super().forward(tokens, codes=codes, edits=edits, cache=cache)
        cycle = "é–".encode()
        logits = torch.full_like(output.logits, -1e9)
        for place, token in enumerate(tokens[0].tolist()):
            after = cycle[(cycle.index(token) + 1) % len(cycle)] if token in cycle else cycle[0]
            logits[:, place, after] = 0
        return type(output)(logits)


@pytest.fixture
def loaded(monkeypatch):
    """What `crystalline.load` gives; the commands' own code runs unchanged."""
    found = SimpleNamespace(model=RunningMean(), tokenizer=ByteTokenizer(), config=None)
    monkeypatch.setattr(crystalline, "load", lambda path: found, raising=False)
    return found


def config(name: str, **changes):
    values = OmegaConf.load(CONF_DIR / f"{name}.yaml")
    del values["defaults"]
    return OmegaConf.merge(values, {"checkpoint": "last.ckpt", **changes})


def output_of(capsys, **changes) -> str:
    generate.task(config("generate", **changes))
    return capsys.readouterr().out


def test_the_prompt_goes_on_and_the_same_seed_writes_the_same(loaded, capsys):
    first = output_of(capsys, prompt="Once", seed=3)
    assert first.startswith("Once")
    assert len(first) > len("Once\n") + 10
    assert output_of(capsys, prompt="Once", seed=3) == first
    assert output_of(capsys, prompt="Once", seed=4) != first


def test_multi_byte_text_stays_whole_while_it_streams(loaded, capsys, monkeypatch):
    loaded.model = MultiByte()
    pieces = []
    monkeypatch.setattr(generate, "write", pieces.append)
    generate.task(config("generate", prompt="x", max_new_tokens=20))
    assert pieces == ["x", *"é–é–é–é–", "\n"]


def test_an_empty_prompt_starts_a_document(loaded, capsys):
    text = output_of(capsys, prompt="", max_new_tokens=50, seed=1)  # seed 0 ends it at once
    assert len(text) > 1


def test_several_samples_are_set_apart_and_differ(loaded, capsys):
    text = output_of(capsys, prompt="Ab", num_samples=3)
    samples = [part.split("\n", 1)[1] for part in text.split("=== sample ")[1:]]
    assert len(set(samples)) == 3
    assert all(part.startswith("Ab") for part in samples)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"checkpoint": None}, r"^checkpoint: give checkpoint="),
        ({"temperature": -1}, r"^temperature=-1"),
        ({"temperature": "warm"}, r"^temperature=warm: give a number"),
        ({"top_p": 0}, r"^top_p=0"),
        ({"top_k": 2.5}, r"^top_k=2.5: give a whole number"),
        ({"num_samples": 0}, r"^num_samples=0"),
        ({"seed": "x"}, r"^seed=x"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_that_names_the_key(loaded, changes, line):
    with pytest.raises(UserError, match=line) as caught:
        generate.task(config("generate", **changes))
    assert "\n" not in str(caught.value)


def test_a_prompt_that_the_tokenizer_lacks_is_refused(loaded):
    loaded.tokenizer = DigitTokenizer()
    with pytest.raises(UserError, match=r"^prompt: .*'a'"):
        generate.task(config("generate", prompt="a"))


def feed(monkeypatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(lines)))


def test_chat_in_a_pipe_continues_each_line_until_it_is_told_to_stop(loaded, capsys, monkeypatch):
    loaded.model = MultiByte()
    feed(monkeypatch, "x\n", "\n", "é\n", "quit\n", "never\n")
    chat.task(config("chat", max_new_tokens=5))
    assert capsys.readouterr().out == "é–\n–é\n"


def test_chat_ends_with_its_input_and_repeats_itself_under_the_same_seed(
    loaded, capsys, monkeypatch
):
    said = []
    for _ in range(2):
        feed(monkeypatch, "Hello\n", "Hello")
        chat.task(config("chat", max_new_tokens=30))
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_chat_goes_on_after_a_line_that_cannot_be_encoded(loaded, capsys, monkeypatch, caplog):
    loaded.model, loaded.tokenizer = RunningMean(vocab_size=11), DigitTokenizer()
    feed(monkeypatch, "words\n", "12\n")
    chat.task(config("chat", max_new_tokens=20))
    assert "cannot encode 'd'" in caplog.text
    assert set(capsys.readouterr().out) <= set("\n0123456789")


def test_ctrl_c_cuts_one_reply_short_and_the_next_line_is_read(capsys):
    def reply(line):
        yield line.upper()
        if line == "a":
            raise KeyboardInterrupt
        yield "!"

    chat.converse(["a\n", "b\n"], reply)
    assert capsys.readouterr().out == "A\nB!\n"


@pytest.mark.parametrize("name", ["generate", "chat"])
def test_every_key_has_a_comment(name):
    text = (CONF_DIR / f"{name}.yaml").read_text()
    keys = [line for line in text.splitlines() if line and line[0].isalpha() and ":" in line]
    assert all("#" in line for line in keys if not line.startswith(("defaults", "num_samples")))
