"""Experiment E5 (c): what goes wrong where a code had fired, and elsewhere, when it is banned?"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.arguments import at_least_one
from callbacks.run_folder import save_artifact
from callbacks.undisturbed import undisturbed
from crystalline.files import finite
from crystalline.interpret.code_search import compile_pattern, matched_tokens, search_codes
from crystalline.interpret.effects import specificity
from crystalline.interpret.reading import read
from crystalline.interpret.sites import Code, find_sites


class CodeSpecificity(Callback):
    """Bans the codes that tell some patterns best, one at a time, while other text is read.

    Writes `specificity.json`; figures `specificity/codes` (those that fired in that text) and
    `specificity/kl_ratio`, the median over them; see `effects.Specificity`.

    Args:
        patterns: Regular expressions.
        codes: How many codes, the most precise ones over all patterns.
        sequences: Training windows in which codes are searched.
        effect_sequences: Validation windows that are read without each of them.

    Raises:
        UserError: If a pattern is none, or a number is below 1.
    """

    def __init__(
        self, *, patterns: Sequence[str], codes: int, sequences: int, effect_sequences: int
    ) -> None:
        at_least_one(
            "code_specificity", codes=codes, sequences=sequences, effect_sequences=effect_sequences
        )
        self.patterns = [compile_pattern(pattern) for pattern in patterns]
        self.codes, self.sequences, self.effect_sequences = codes, sequences, effect_sequences
        self.figures: dict[str, float] = {}
        """Of the summary."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        model: Any = pl_module.model
        if not trainer.is_global_zero or not model.codebooks():
            return
        with undisturbed(pl_module):
            found = self._search(model, data)
            sites, batches = (
                find_sites(model),
                list(data.spread_windows("val", self.effect_sequences)),
            )
            rows = []
            for code, entry in found.items():
                effect = specificity(model, batches, sites[code.site], code)
                rows.append(entry | asdict(effect) | {"kl_ratio": effect.kl_ratio})
        ratios = [row["kl_ratio"] for row in rows if not math.isnan(row["kl_ratio"])]
        self.figures = {"specificity/codes": float(len(ratios))}
        if ratios and math.isfinite(statistics.median(ratios)):
            self.figures["specificity/kl_ratio"] = statistics.median(ratios)
        report = {"codes": rows, "figures": self.figures}
        save_artifact(trainer, "specificity.json", json.dumps(finite(report), indent=1) + "\n")

    def _search(self, model: Any, data: Any) -> dict[Code, dict[str, Any]]:
        """The most precise codes, each with the pattern that it tells best."""
        windows = data.train_windows(self.sequences)
        reading = read(model, (batch.tokens for batch in windows))
        matches = [
            (match, pattern.pattern)
            for pattern in self.patterns
            for match in search_codes(
                reading, matched_tokens(reading, data.tokenizer, pattern), most=self.codes
            )
        ]
        matches.sort(key=lambda found: -found[0].chosen.precision)
        best: dict[Code, dict[str, Any]] = {}
        for match, pattern in matches:
            code = Code(match.site, match.level, match.code)
            if code not in best and len(best) < self.codes:
                precision = {"precision": match.reported.precision}
                best[code] = {**code._asdict(), "pattern": pattern, **precision}
        return best
