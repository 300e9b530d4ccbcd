"""Generated sequences that test what a model does with context, beyond n-grams."""

from __future__ import annotations

from dataclasses import fields
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int

from crystalline.errors import UserError
from crystalline.word_tokenizer import WordTokenizer
from datamodules.batch import IGNORED, Batch
from datamodules.bayes import Bayes
from datamodules.documents import hash_of
from datamodules.generated import EVAL_SEQUENCES, GeneratedDataModule
from datamodules.sequence_tasks.copying import DelayedCopy, Induction
from datamodules.sequence_tasks.dyck import Dyck
from datamodules.sequence_tasks.lookup import Lookup
from datamodules.sequence_tasks.task import Task, require
from datamodules.sequence_tasks.topics import Topics

TASKS = {
    "delayed_copy": DelayedCopy,
    "induction": Induction,
    "lookup": Lookup,
    "dyck": Dyck,
    "topics": Topics,
}
SCORES = ("all", "answers")


class Marked(NamedTuple):
    """Sequences and which of their targets count as answers."""

    tokens: Int[np.ndarray, "batch length"]
    """int64; words, after the special token."""
    answers: Bool[np.ndarray, "batch pos"]
    """Whether each token but the first is an answer."""


class TasksDataModule(GeneratedDataModule[Marked]):
    """Sequences of one task.

    Args:
        task: A name in `TASKS`.
        seq_len: Tokens a window T; a sequence has one more, the special token that opens it.
        score: "all" scores every target, "answers" the answers alone, in training too.
        batch_size: Sequences in the global batch of a round, over all processes.
        eval_batch_size: Sequences in an evaluation batch of one process.
        seed: Decides the training sequences.
        options: Of all tasks, by name; each task reads its own.

    Raises:
        UserError: If an option is unknown or out of range, or the window too short for an answer.
    """

    def __init__(
        self,
        task: str,
        seq_len: int,
        score: str,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        **options: float,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        for key, value, known in (("task", task, TASKS), ("score", score, SCORES)):
            if value not in known:
                raise UserError(f"data.{key} must be one of {', '.join(known)}, got {value!r}")
        known_options = {field.name for kind in TASKS.values() for field in fields(kind)}
        for key in sorted(options.keys() - known_options):
            keys = ", ".join(sorted(known_options))
            raise UserError(f"data.{key}: data=tasks has no such key; its tasks have {keys}")
        require("seq_len", seq_len, 1)
        kind = TASKS[task]
        self.task: Task = kind(**{field.name: options[field.name] for field in fields(kind)})
        if seq_len < self.task.shortest:
            raise UserError(
                f"data.seq_len={seq_len} is too short for an answer of data.task={task} with these "
                f"keys; give {self.task.shortest} or more"
            )
        self.name, self.seq_len, self.score = task, seq_len, score
        self.tokenizer = WordTokenizer(self.task.words)
        self.fingerprint = hash_of("tasks", repr(self.task), str(seq_len), score)

    def draw(self, random: np.random.Generator, count: int) -> Marked:
        words = self.task.draw(random, count, self.seq_len)
        opening = np.full((count, 1), self.tokenizer.eot_id)
        return Marked(np.concatenate([opening, words], axis=1), self.task.answers(words))

    def batch(self, drawn: Marked) -> Batch:
        tokens, targets = super().batch(drawn)
        if self.score == "answers":
            targets = targets.masked_fill(~torch.from_numpy(drawn.answers), IGNORED)
        return Batch(tokens, targets)

    def bayes(self, split: str, score: str) -> Bayes:
        """What a predictor that knows the task pays on the very sequences of a split.

        Args:
            split: "train", "val" or "test".
            score: Over which targets, "all" or "answers".

        Raises:
            UserError: If the split has no answers.
        """
        tokens, answers = self.eval_drawn(split)
        chance, best = self.task.law(tokens[:, 1:])
        scored = answers | (score == "all")
        if not scored.any():
            raise UserError(
                f"data.seq_len={self.seq_len}: no sequence of {split} has an answer; give more"
            )
        return Bayes(float(np.log(1 / chance[scored]).mean()), float(best[scored].mean()))

    def describe(self) -> list[str]:
        share = self.eval_drawn("val").answers.mean()
        asked = [
            (split, score)
            for split in ("val", "test")
            for score in SCORES
            if score == "all" or self.eval_drawn(split).answers.any()
        ]
        return [
            f"tasks: {self.name}, fingerprint {self.fingerprint}, vocabulary {self.vocab_size}, "
            "generated without end",
            *(
                f"best possible on {split}, {score}: loss {best.loss:.4f} nats, "
                f"accuracy {100 * best.accuracy:.2f} %"
                for split, score in asked
                for best in [self.bayes(split, score)]
            ),
            f"{100 * share:.1f} % of targets are answers; scored: {self.score}",
            f"val and test: {EVAL_SEQUENCES:,} sequences of {self.seq_len + 1} tokens each",
        ]
