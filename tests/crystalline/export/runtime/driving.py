"""Runs the program, and compares what it computes with PyTorch."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crystalline.models.crystal import Crystal

SMALL = {"vocab_size": 37, "context_length": 8, "d_model": 20, "d_mlp": 44, "capacity": 13,
         "founders": 13, "num_heads": 4}  # fmt: skip
EVEN = SMALL | {"d_model": 64, "d_mlp": 96, "capacity": 40, "founders": 40}
"""Sizes that vectors of any instruction set divide."""


def small_model(**options: Any) -> Crystal:
    """A model in which every parameter matters."""
    torch.manual_seed(0)
    model = Crystal(**(SMALL | options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


class Program:
    """The command line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *arguments: object) -> subprocess.CompletedProcess[bytes]:
        command = [str(self.path), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, check=False)

    def output(self, *arguments: object) -> bytes:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def error(self, *arguments: object) -> str:
        """The one line of a refusal."""
        done = self.run(*arguments)
        assert (done.returncode, done.stdout) == (1, b"")
        line, *others = done.stderr.decode().splitlines()
        assert line.startswith("error: ")
        assert not others
        return line

    def steps(
        self, file: Path, prompt: Sequence[int], count: int, *options: object
    ) -> tuple[list[int], np.ndarray]:
        """Ids drawn greedily, and the logits of each step."""
        said = self.output(
            "-m", file, "--ids", "-p", " ".join(map(str, prompt)), "-n", count, "-t", 0,
            "--logits", "--no-stop", *options
        )  # fmt: skip
        lines = [line.split() for line in said.decode().splitlines()]
        assert len(lines) == count
        return [int(line[0]) for line in lines], np.array([line[1:] for line in lines], float)


@torch.no_grad()
def reference(model: Crystal, prompt: Sequence[int], drawn: Sequence[int]) -> np.ndarray:
    """Logits of the same steps: of the last position of each window, computed whole."""
    text = [*prompt, *drawn]
    rows = []
    for seen in range(len(prompt), len(text)):
        window = text[max(0, seen - model.context_length) : seen]
        rows.append(model(torch.tensor([window])).logits[0, -1])
    return torch.stack(rows).double().numpy()


def difference(
    program: Program, file: Path, model: Crystal, *options: object, count: int = 20
) -> float:
    """Largest difference of logits while the window grows, from two tokens on, and slides."""
    drawn, logits = program.steps(file, [3, 5], count, *options)
    assert drawn == logits.argmax(-1).tolist()
    return float(np.abs(logits - reference(model, [3, 5], drawn)).max())
