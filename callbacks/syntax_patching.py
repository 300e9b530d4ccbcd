"""Experiment E5 (d): does what follows a syntactic place follow where its codes are put?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.arguments import at_least_one
from callbacks.run_folder import save_artifact
from callbacks.undisturbed import undisturbed
from crystalline.files import finite
from crystalline.interpret.code_search import compile_pattern, matched_tokens
from crystalline.interpret.reading import read
from crystalline.interpret.syntax_patching import syntax_shift


class SyntaxPatching(Callback):
    """After the test: `syntax.json`, and for each pattern `syntax/<name>/...` figures.

    `ratio` is how many times likelier the tokens that typically follow the pattern become where its
    codes are put, `control` the same with other codes, `natural` after the pattern itself; see
    `SyntaxShift`. `syntax/least_ratio` is the lowest one.

    Args:
        patterns: Regular expressions by name; the last token of a match is marked.
        num_codes: Codes of a pattern that are put together, one a book at most.
        sequences: Training windows; codes are chosen on one half, effects measured on the other.
        places: Places that are patched.
        seed: Of the places and the control's codes.

    Raises:
        UserError: If a pattern is none, or a number is below 1.
    """

    def __init__(
        self,
        *,
        patterns: Mapping[str, str],
        num_codes: int,
        sequences: int,
        places: int,
        seed: int,
    ) -> None:
        at_least_one("syntax_patching", num_codes=num_codes, sequences=sequences, places=places)
        self.patterns = {name: compile_pattern(pattern) for name, pattern in patterns.items()}
        self.num_codes, self.sequences, self.places = num_codes, sequences, places
        self.seed = seed
        self.figures: dict[str, float] = {}
        """Of the summary."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        model: Any = pl_module.model
        if not trainer.is_global_zero or not model.codebooks():
            return
        report, ratios = {}, []
        with undisturbed(pl_module):
            reading = read(model, (batch.tokens for batch in data.train_windows(self.sequences)))
            for name, pattern in self.patterns.items():
                inside = matched_tokens(reading, data.tokenizer, pattern)
                marked = inside & ~np.append(inside[1:] & ~reading.window_start[1:], False)
                found = syntax_shift(
                    model, reading, marked,
                    num_codes=self.num_codes, places=self.places, seed=self.seed,
                )  # fmt: skip
                if found is None:
                    continue
                report[name] = asdict(found) | {"ratio": found.ratio, "pattern": pattern.pattern}
                report[name]["followers"] = [
                    data.tokenizer.decode([token]) for token in found.followers
                ]
                ratios.append(found.ratio)
                self.figures |= {
                    f"syntax/{name}/ratio": found.ratio,
                    f"syntax/{name}/control": found.control / found.before,
                    f"syntax/{name}/natural": found.natural / found.before,
                }
        if ratios:
            self.figures["syntax/least_ratio"] = min(ratios)
        save_artifact(trainer, "syntax.json", json.dumps(finite(report), indent=1) + "\n")
