"""Experiment E5: does text speak of a topic while the topic's codes are held?"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.arguments import at_least_one
from callbacks.run_folder import save_artifact
from callbacks.undisturbed import undisturbed
from crystalline.checkpoint import load
from crystalline.errors import UserError
from crystalline.files import finite
from crystalline.generate import open_document
from crystalline.interpret.reading import read
from crystalline.interpret.steering import check_held
from crystalline.interpret.topic_steering import (
    ARMS,
    Judge,
    choose_by_effect,
    choose_by_firing,
    code_counts,
    steer_topics,
    steering_figures,
)
from crystalline.sampling import check_options
from crystalline.text_table import text_table
from crystalline.tradeoff import intervals_png

log = logging.getLogger(__name__)


class TopicSteering(Callback):
    """Writes `steering.json`, `steering.txt` and `steering.png`, and `steering/...` figures.

    Codes are found on training text, by themselves. A topic that finds none is left out, and said
    so; its figures are then missing.

    Args:
        topics: The words of each topic; a text speaks of it if it holds one of them.
        prompts: Texts to continue, each at the start of a document.
        sequences: Windows of training in which codes are found.
        choose: By "effect", what holding a code does to the mentions to expect, or
            by "firing", where it is found, as in the paper.
        num_codes: Codes of a topic, at most.
        codes_per_book: Of each book, at most.
        min_share: By firing: a code fires on more than this share of the tokens of a sequence of
            the topic.
        candidates: By effect: codes of a book that are measured, the best to first order.
        windows: By effect: of those that are read, for measurements.
        max_cost: By effect: nats a token (KL divergence) that a topic's codes may cost together.
        num_samples: Texts for each prompt.
        max_new_tokens: Tokens of a text, at most.
        held_tokens: Codes are held at the first so many tokens of a text; None: at every token.
        temperature: As in `sample`.
        batch_size: Texts at a time.
        baseline: A checkpoint whose model says what steering costs; None: the run's own model,
            without edits.
        seed: Of texts and control codes.

    Raises:
        UserError: If an argument is out of range or the baseline is no checkpoint.
    """

    def __init__(
        self,
        *,
        topics: Mapping[str, Sequence[str]],
        prompts: Sequence[str],
        sequences: int,
        choose: Literal["effect", "firing"],
        num_codes: int,
        codes_per_book: int,
        min_share: float,
        candidates: int,
        windows: int,
        max_cost: float,
        num_samples: int,
        max_new_tokens: int,
        held_tokens: int | None,
        temperature: float,
        batch_size: int,
        baseline: str | None,
        seed: int,
    ) -> None:
        at_least_one(
            "topic_steering",
            sequences=sequences,
            num_codes=num_codes,
            num_samples=num_samples,
            codes_per_book=codes_per_book,
            candidates=candidates,
            windows=windows,
            batch_size=batch_size,
        )
        if held_tokens is not None:
            at_least_one("topic_steering", held_tokens=held_tokens)
        if choose not in ("effect", "firing"):
            raise UserError(f"callbacks.topic_steering.choose={choose}: give effect or firing")
        check_options(max_new_tokens, temperature, None, 1.0)
        self.topics, self.prompts, self.sequences = topics, prompts, sequences
        self.by_effect = choose == "effect"
        self.choice: dict[str, Any] = {"num_codes": num_codes, "codes_per_book": codes_per_book}
        if self.by_effect:
            self.choice |= {"candidates": candidates, "windows": windows, "max_cost": max_cost}
        else:
            self.choice |= {"min_share": min_share}
        self.options: dict[str, Any] = {
            "num_samples": num_samples, "max_new_tokens": max_new_tokens,
            "temperature": temperature, "batch_size": batch_size, "seed": seed,
            "held_tokens": held_tokens,
        }  # fmt: skip
        self.baseline = baseline
        if baseline is not None and not Path(baseline).is_file():
            raise UserError(f"callbacks.topic_steering.baseline={baseline}: no such checkpoint")
        self.figures: dict[str, float] = {}
        """Of the summary."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model: Any = pl_module.model
        if model.codebooks():
            tokenizer = trainer.datamodule.tokenizer  # type: ignore[attr-defined]
            opened = [open_document(tokenizer, prompt) for prompt in self.prompts]
            held, most = self.options["held_tokens"], self.options["max_new_tokens"]
            check_held(held, opened, most, model.context_length)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        model: Any = pl_module.model
        if not trainer.is_global_zero or not model.codebooks():
            return
        tokenizer = data.tokenizer
        judge, judged_by = self._judge(model, tokenizer)
        with undisturbed(pl_module), torch.inference_mode(False):  # effects need gradients
            windows = data.train_windows(self.sequences)
            reading = read(model, (batch.tokens for batch in windows))
            asked = (reading, tokenizer, self.topics)
            if self.by_effect:
                topics, failed = choose_by_effect(model, *asked, **self.choice)
            else:
                topics, failed = choose_by_firing(*asked, **self.choice)
            for name, error in failed.items():
                log.warning("steering leaves %s out: %s", name, error)
            opened = [open_document(tokenizer, prompt) for prompt in self.prompts]
            counts, stop = code_counts(reading), tokenizer.eot_id
            found = steer_topics(
                model, tokenizer, topics, opened, counts, judge=judge, stop_id=stop, **self.options
            )
        figures = finite(steering_figures(found.rows))
        self.figures = {f"steering/{k}": v for k, v in figures.items() if v is not None}
        codes = {
            topic.name: {
                "steered": [code._asdict() for code in topic.codes],
                "control": [code._asdict() for code in found.control[topic.name]],
            }
            for topic in topics
        }
        report = {"judge": judged_by, "rows": found.rows, "codes": codes, "figures": figures}
        save_artifact(trainer, "steering.json", json.dumps(finite(report), indent=1) + "\n")
        if found.rows:
            table = f"{text_table(found.rows)}\nprice: perplexity under {judged_by}\n"
            save_artifact(trainer, "steering.txt", table)
            bars = {
                arm: [(row["frequency"], row["low"], row["high"]) for row in found.rows
                      if row["codes"] == arm]
                for arm in ARMS
            }  # fmt: skip
            label = "share of texts about the topic"
            picture = intervals_png([topic.name for topic in topics], bars, label)
            save_artifact(trainer, "steering.png", picture)

    def _judge(self, model: Any, tokenizer: Any) -> tuple[Judge, str]:
        if self.baseline is None:
            return Judge(model, tokenizer), "the run's own model, without edits"
        loaded = load(self.baseline)
        device = next(model.parameters()).device
        return Judge(loaded.model.to(device), loaded.tokenizer), self.baseline
