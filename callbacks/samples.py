"""Text that the model writes while it learns, and how much of it is recited."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.run_folder import save_artifact
from callbacks.undisturbed import undisturbed
from crystalline.errors import UserError
from crystalline.metrics.overlap import longest_overlap
from crystalline.sampling import check_options, sample
from crystalline.tokenizer import Tokenizer

log = logging.getLogger(__name__)


class TextSamples(Callback):
    """Writes `samples/step_0000500.txt` at intervals and at the end, and logs its first sample.

    Each sample comes with the longest stretch of what was generated (the prompt not counted) that
    stands in the training text word for word. Training's random numbers stay as they were.

    Args:
        every_n_steps: Rounds between samples; 0 samples only at the end.
        prompts: Texts to continue; "" starts a document. So does a prompt that the corpus'
            tokenizer cannot encode (words for a corpus of digits).
        max_new_tokens: Tokens written for each prompt; a document may end sooner.
        temperature: As in `sample`.
        top_k: As in `sample`.
        seed: Prompt i uses seed + i, at every step the same.

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(
        self,
        *,
        every_n_steps: int,
        prompts: Sequence[str],
        max_new_tokens: int,
        temperature: float,
        top_k: int | None,
        seed: int,
    ) -> None:
        if every_n_steps < 0:
            raise UserError(f"callbacks.text_samples.every_n_steps={every_n_steps}: give 0 or more")
        if isinstance(prompts, str):
            raise UserError("callbacks.text_samples.prompts: give a list, as in prompts=['Once']")
        check_options(max_new_tokens, temperature, top_k, top_p=1.0)
        self.every_n_steps = every_n_steps
        self.prompts = list(prompts)
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_k = top_k
        self.seed = seed
        self._last_step = -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._run(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not getattr(pl_module, "interrupted", False):
            self._run(trainer, pl_module)

    def _run(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        if not trainer.is_global_zero or not self.prompts or step == self._last_step:
            return
        self._last_step = step
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        with undisturbed(pl_module):
            sections = [
                self._section(pl_module.model, data, prompt, self.seed + index)
                for index, prompt in enumerate(self.prompts)
            ]
        head = f"step {step}, temperature {self.temperature}, top_k {self.top_k}"
        save_artifact(trainer, f"samples/step_{step:07d}.txt", "\n".join([head, "", *sections]))
        log.info("sample at step %d: %s", step, " ".join(sections[0].split()))

    def _section(self, model: Any, data: Any, prompt: str, seed: int) -> str:
        tokenizer: Tokenizer = data.tokenizer
        start = _encode(tokenizer, prompt)
        written = [
            int(token)
            for token in sample(
                model,
                torch.tensor([start]),
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                top_k=self.top_k,
                generator=torch.Generator().manual_seed(seed),
                stop_id=tokenizer.eot_id,
            )
        ]
        return (
            f"[prompt {json.dumps(prompt, ensure_ascii=False)}, seed {seed}]\n"
            f"{tokenizer.decode(start + written)}\n"
            f"[{_recited(written, data.train_tokens(), tokenizer)}]\n"
        )


def _encode(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Ids of the prompt; the start of a document if it has none."""
    try:
        return tokenizer.encode(prompt) or [tokenizer.eot_id]
    except ValueError:
        return [tokenizer.eot_id]


def _recited(written: list[int], corpus: np.ndarray | None, tokenizer: Tokenizer) -> str:
    if corpus is None:
        return "no training text to compare with"
    length, start = longest_overlap(np.array(written, dtype=np.int64), corpus)
    text = tokenizer.decode(corpus[start : start + length].tolist()) if length else ""
    return (
        f"longest overlap with the training text: {length} of {len(written)} tokens, "
        f"{len(text)} characters: {json.dumps(text, ensure_ascii=False)}"
    )
