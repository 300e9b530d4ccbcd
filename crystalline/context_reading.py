"""What `crystalline.context` reads: targets of a split, what they cost the model and n-grams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from jaxtyping import Integer
from omegaconf import DictConfig

from crystalline.checkpoint import Loaded
from crystalline.contract import LanguageModel
from crystalline.errors import UserError
from crystalline.evaluation import data_of, name_of
from crystalline.interpret.context_use import (
    Targets,
    Values,
    match_rows,
    matches,
    model_nats,
    ngram_nats,
)
from crystalline.metrics.ngram import NGram
from crystalline.metrics.token_loss import bits_per_byte
from datamodules.batch import IGNORED, Batch
from datamodules.rounds import RoundDataModule
from datamodules.streams import StreamDataModule


def read_context(loaded: Loaded, config: DictConfig) -> dict[str, Any]:
    """Everything that tables and picture show; losses in nats and bits a token, and bits a byte.

    Raises:
        UserError: If there is too little training text for the n-grams.
    """
    data, model = data_of(loaded, config), loaded.model
    training = _training_text(data, config)
    targets = _targets(data, config)
    size = _bytes_per_token(data, targets)
    lengths = spans(model, list(config.windows))
    nats = {length: model_nats(model, targets, length, config.batch_size) for length in lengths}
    ngrams: dict[str, Values] = {}
    for order in range(1, config.longest_match + 2):
        ngram = NGram(training, data.vocab_size, order)
        ngrams[f"{order}-gram"] = ngram_nats(ngram, targets)
    return {
        "checkpoint": str(config.checkpoint),
        "steps": loaded.step,
        "model": loaded.checkpoint["choices"].get("model", type(model).__name__),
        "context_length": model.context_length,
        "alignment": model.alignment,
        "data": name_of(loaded, config),
        "data_fingerprint": data.fingerprint,
        "split": config.split,
        "targets": len(targets),
        "seed": config.seed,
        "ngram_tokens": training.size,
        "windows": [
            {
                "window": length,
                "seen": float(targets.seen(length, model.alignment).mean()),
                **_losses(values, size),
            }
            for length, values in nats.items()
        ],
        "ngrams": [
            {"order": order, **_losses(values, size)}
            for order, values in enumerate(ngrams.values(), 1)
        ],
        "matches": match_rows(matches(ngram, targets), nats[lengths[-1]], ngrams),
    }


def spans(model: LanguageModel, windows: Sequence[int]) -> list[int]:
    """Windows from the shortest to the model's whole context, which comes last.

    Where windows start at multiples of the alignment, they leave room for what they gain by it.

    Raises:
        UserError: If the model's context is shorter than one aligned step.
    """
    most = model.context_length - model.alignment + 1
    if most < 1:
        raise UserError(
            f"model.context_length={model.context_length}: windows of this model start at multiples"
            f" of {model.alignment} tokens; give a checkpoint of a longer context"
        )
    return sorted({most, *(min(window, most) for window in windows)})


def _targets(data: RoundDataModule, config: DictConfig) -> Targets:
    """Of the split as one text, as in training; or of windows that do not follow each other."""
    if _is_one_text(data):
        return Targets.spread(data.streams[config.split].ids[None], config.targets, config.seed)
    batch = data.eval_windows(config.split, np.arange(data.num_eval_windows(config.split)))
    texts = np.concatenate([batch.tokens.numpy(), batch.targets[:, -1:].numpy()], axis=1)
    scored = batch.targets.numpy() != IGNORED
    return Targets.spread(texts, config.targets, config.seed, scored)


def _training_text(data: RoundDataModule, config: DictConfig) -> Integer[np.ndarray, "*rows pos"]:
    """The first tokens of training; where it is no text, the windows that come first as rows."""
    ids, order = data.train_tokens(), config.longest_match + 1
    most = config.ngram_tokens if ids is None else min(config.ngram_tokens, len(ids))
    if ids is None or not _is_one_text(data):
        count = math.ceil(most / data.train_batch(0).tokens.shape[1])
        tokens, targets = zip(*data.train_windows(count), strict=True)
        ids = whole(Batch(torch.cat(tokens), torch.cat(targets)))
    else:
        ids = ids[:most]
    if (length := ids.shape[-1]) <= order:
        where = f"{length} training tokens here; give less, or more ngram_tokens"
        if ids.ndim > 1:
            where = f"windows of {length} tokens; give less"
        raise UserError(
            f"longest_match={config.longest_match}: n-grams of order {order} cannot be "
            f"counted in {where}"
        )
    return ids


def whole(batch: Batch) -> Integer[np.ndarray, "rows pos"]:
    """Windows with what follows their last token, where that is known of all."""
    tokens, last = batch.tokens.numpy(), batch.targets[:, -1:].numpy()
    return tokens if (last == IGNORED).any() else np.concatenate([tokens, last], axis=1)


def _is_one_text(data: RoundDataModule) -> TypeGuard[StreamDataModule]:
    return isinstance(data, StreamDataModule) and not data.shuffle_tokens


def _bytes_per_token(data: RoundDataModule, targets: Targets) -> float | None:
    """Bytes that a target stands for on average; None where bytes mean nothing."""
    if not isinstance(data, StreamDataModule):
        return None
    return data.bytes_of(targets.ids_before, targets.ids) / len(targets) or None


def _losses(nats: Values, size: float | None) -> dict[str, float]:
    mean = float(nats.mean())
    bpb = bits_per_byte(mean, size)
    return {"nats": mean, "bits": mean / math.log(2), **({} if bpb is None else {"bpb": bpb})}
