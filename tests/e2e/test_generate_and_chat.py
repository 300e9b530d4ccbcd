from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crystalline import checkpoint
from crystalline.models.transformer import Transformer
from crystalline.tokenizer import ByteTokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A checkpoint as a run leaves it, of a transformer that has learned nothing."""
    sizes = {"context_length": 16, "d_model": 8, "num_layers": 1, "num_heads": 2}
    model = {"_target_": "crystalline.models.transformer.Transformer", "vocab_size": None, **sizes}
    weights = Transformer(vocab_size=257, **sizes).state_dict()
    path = tmp_path_factory.mktemp("run") / "a=b, c.ckpt"
    entry = {
        "format": checkpoint.FORMAT,
        "config": {"model": model},
        "tokenizer": ByteTokenizer().to_json(),
        "vocab_size": 257,
        "versions": {},
    }
    state = {f"model.{name}": tensor for name, tensor in weights.items()}
    checkpoint.write({"state_dict": state, "crystalline": entry}, path)
    return path


def command(name: str, folder: Path, *arguments: str, typed: str = "") -> tuple[int, str, str]:
    result = subprocess.run(
        [sys.executable, "-m", f"crystalline.{name}", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        input=typed,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    return result.returncode, result.stdout, result.stderr


def test_generate_writes_the_prompt_and_its_continuation_and_leaves_no_files(saved, tmp_path):
    prompt = 'It said: "x = {1}, [2]", – ${y}'
    status, out, err = command(
        "generate", tmp_path, f"checkpoint={saved}", f"prompt={prompt}", "max_new_tokens=40"
    )
    assert (status, err) == (0, "")
    assert out.startswith(prompt)
    assert len(out.encode()) > len(prompt.encode()) + 20
    assert list(tmp_path.iterdir()) == []


def test_chat_answers_every_line_of_a_pipe_and_ends_with_it(saved, tmp_path):
    arguments = (f"checkpoint={saved}", "max_new_tokens=20", "temperature=0")
    typed = "A line, and = [more]\nquit\nnot read\n"
    status, out, err = command("chat", tmp_path, *arguments, typed=typed)
    assert (status, err) == (0, "")
    assert out.endswith("\n")
    assert out.strip()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_missing_checkpoint_is_one_line_with_the_mend_and_status_one(tmp_path):
    status, out, err = command("generate", tmp_path)
    assert (status, out) == (1, "")
    assert err == "crystalline.generate: checkpoint: give checkpoint=<run>/checkpoints/last.ckpt\n"
