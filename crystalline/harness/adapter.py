"""A checkpoint of any family, as lm-evaluation-harness wants models to be."""

# pyright: reportMissingImports=false
# lm_eval is an extra that dev does not have: it slows every start.
from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from tqdm import tqdm

from crystalline.contract import LanguageModel
from crystalline.errors import UserError
from crystalline.eval_mode import evaluating
from crystalline.harness.generation import Ending, Generation
from crystalline.harness.windows import Window, batched, windows
from crystalline.layers.cross_entropy import IGNORED
from crystalline.sampling import sample
from crystalline.tokenizer import Tokenizer

_Pair = tuple[tuple[str, str], list[int], list[int]]
"""Context and continuation: as texts, and the ids of each."""


class HarnessModel(TemplateLM):
    """Log-probabilities (nats) and text of a model; where it lies, in the precision of its weights.

    An empty context is `<|endoftext|>`, which opens every document in training.

    Args:
        model: Any family's.
        tokenizer: The one it was trained with.
        batch_size: Sequences at once.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, batch_size: int) -> None:
        super().__init__()
        self._model = model
        self._ids = tokenizer
        self._batch_size = batch_size
        self._device = next(model.parameters()).device

    @property
    def eot_token_id(self) -> int:
        return self._ids.eot_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Ids of `string`; our tokenizers add none.

        Raises:
            UserError: If the tokenizer is not made for text.
        """
        try:
            return self._ids.encode(string)
        except ValueError as error:
            raise UserError(f"tasks: {error}; take tasks of the checkpoint's own kind") from error

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """lm_eval's rule: spaces between the two belong to the second; encode whole, then split.

        Where a token of the whole covers the end of the context and all of the continuation,
        nothing would be left to score: the two are then encoded apart.
        """
        before, after = super()._encode_pair(context, continuation)
        if not after:
            before, after = self.tok_encode(context), self.tok_encode(continuation)
        return before or [self.eot_token_id], after

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Nats of continuations after their contexts, and whether each is what would be written."""
        return super().loglikelihood(requests, disable_tqdm=True)  # we show progress ourselves

    def _loglikelihood_tokens(self, requests: list[_Pair], **_: Any) -> list[tuple[float, bool]]:
        length = self._model.context_length
        return self._scores(
            [windows(before + after, len(before), length) for _, before, after in requests]
        )

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Nats of whole texts, their first tokens included, each text by itself."""
        length, alignment = self._model.context_length, self._model.alignment
        texts = [self.tok_encode(request.args[0]) for request in requests]
        opened = [[self.eot_token_id, *text] for text in texts]
        return [
            nats for nats, _ in self._scores([windows(t, 1, length, alignment) for t in opened])
        ]

    def _scores(self, texts: list[list[Window]]) -> list[tuple[float, bool]]:
        """Of each text's windows: log-probability, and whether every scored token is likeliest."""
        rows = [(index, window) for index, text in enumerate(texts) for window in text]
        rows.sort(key=lambda row: -len(row[1].inputs))  # those of like length fill little
        nats, greedy = [0.0] * len(texts), [True] * len(texts)
        with evaluating(self._model), _progress("scored", len(rows)) as bar:
            for start in range(0, len(rows), self._batch_size):
                part = rows[start : start + self._batch_size]
                inputs, targets = batched([window for _, window in part], self.eot_token_id)
                targets = targets.to(self._device)
                found = self._model(inputs.to(self._device)).cross_entropy(targets)
                right = (found.correct | (targets == IGNORED)).all(dim=1).tolist()
                for (index, _), lost, best in zip(
                    part, found.nats.double().sum(dim=1).tolist(), right, strict=True
                ):
                    nats[index] -= lost
                    greedy[index] &= best
                bar.update(len(part))
        return list(zip(nats, greedy, strict=True))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continuations, without the string that ended them; drawn ones by one seeded generator.

        A batch holds prompts of one length: the model's cache knows no padding.
        """
        arguments: list[Any] = [request.args for request in requests]
        prompts = [self.tok_encode(context) or [self.eot_token_id] for context, _ in arguments]
        wanted = [Generation.of(options) for _, options in arguments]
        kinds = {kind: number for number, kind in enumerate(dict.fromkeys(wanted))}

        def alike(index: int) -> tuple[int, int]:
            return kinds[wanted[index]], len(prompts[index])

        generator = torch.Generator().manual_seed(0)
        texts = [""] * len(requests)
        with _progress("written", len(requests)) as bar:
            for _, group in groupby(sorted(range(len(requests)), key=alike), key=alike):
                members = list(group)
                for start in range(0, len(members), self._batch_size):
                    part = members[start : start + self._batch_size]
                    batch = [prompts[index] for index in part]
                    written = self._continued(batch, wanted[part[0]], generator)
                    for index, text in zip(part, written, strict=True):
                        texts[index] = text
                    bar.update(len(part))
        return texts

    def _continued(
        self, prompts: list[list[int]], wanted: Generation, generator: torch.Generator
    ) -> list[str]:
        rows = [Ending(wanted.until) for _ in prompts]
        stream = sample(
            self._model,
            torch.tensor(prompts),
            max_new_tokens=wanted.max_new_tokens,
            temperature=wanted.temperature,
            top_k=wanted.top_k,
            top_p=wanted.top_p,
            generator=generator,
            stop_id=self.eot_token_id,
        )
        for tokens in stream:
            for row, token in zip(rows, tokens.tolist(), strict=True):
                row.push(self._ids.token_bytes(token))
            if all(row.done for row in rows):
                break
        return [row.text for row in rows]


def _progress(what: str, total: int) -> tqdm:
    """A bar on a terminal, nothing elsewhere."""
    return tqdm(total=total, desc=what, disable=None)
