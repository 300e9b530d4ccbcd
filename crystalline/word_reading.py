"""What `crystalline.words` reads: the figures of a vocabulary-space model, and a text in detail."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from crystalline.checkpoint import Loaded
from crystalline.errors import UserError
from crystalline.evaluation import data_of, name_of
from crystalline.generate import encode_prompt
from crystalline.interpret import word_pictures
from crystalline.interpret.labels import CLASSES, token_traits
from crystalline.interpret.word_lens import Lens, depth_rows, lens, views
from crystalline.interpret.word_names import WordNames
from crystalline.interpret.word_pairs import map_row, text_pairs
from crystalline.interpret.word_programs import horizons, program_row
from crystalline.interpret.word_scores import scores
from crystalline.interpret.word_tests import outcome_rows
from crystalline.interpret.word_text import text_rows
from crystalline.interpret.word_trace import trace
from crystalline.interpret.word_updates import Push, part_rows, pushes
from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.readable import Mixture
from datamodules.batch import IGNORED, Batch
from datamodules.rounds import RoundDataModule

_NUMBERS = 2**21
"""Of a state (rows x positions x words) that are read at a time."""


def read_words(loaded: Loaded, config: DictConfig) -> tuple[dict[str, Any], dict[str, bytes]]:
    """All that the keys ask for, and pictures by name.

    Raises:
        UserError: If states of the model are not over words, or the text is too long for it.
    """
    model = loaded.model
    if not isinstance(model, VocabSpace):
        raise UserError(
            f"checkpoint={config.checkpoint}: states of this model are not over words; give one of "
            "a vocabulary-space model, such as model=vocab/v9_meta"
        )
    device = next(model.parameters()).device
    data, names = data_of(loaded, config), WordNames(loaded.tokenizer)
    text = _text(loaded, data, config).to(device)
    windows = list(_windows(data, config, model.vocab_size, device))
    figures = _text_figures(model, windows, loaded, config.top)
    found: dict[str, Any] = {
        "checkpoint": str(config.checkpoint),
        "steps": loaded.step,
        "model": loaded.checkpoint["choices"].get("model", type(model).__name__),
        "readout": model.head.readout,
        **model.count_parameters(),
        "data": name_of(loaded, config),
        "data_fingerprint": data.fingerprint,
        "split": config.split,
        "sequences": sum(len(batch.tokens) for batch in windows),
        "tokens": sum(int((batch.targets != IGNORED).sum()) for batch in windows),
        **figures,
        "maps": _maps(model, data, config),
        "horizons": horizons(model),
        "tests": _tests(model, data, config, device),
    }
    named = names.in_rows(found)
    named["scores"] = scores(found)
    named["text"] = names.in_rows(text_rows(model, text, config.top))
    return named, word_pictures.pictures(named)


def _text(loaded: Loaded, data: RoundDataModule, config: DictConfig) -> Tensor:
    """The text's ids (1, pos) after the token that opens a document; else the split's first."""
    tokenizer, most = loaded.tokenizer, loaded.model.context_length
    if config.text is None:
        return data.eval_windows(config.split, np.arange(1)).tokens[:, : min(most, 32)]
    ids = [tokenizer.eot_id, *encode_prompt(tokenizer, str(config.text))]
    if len(ids) > most:
        raise UserError(
            f"text: {len(ids)} tokens, the opening one included, are more than the model's {most}; "
            "give a shorter text"
        )
    return torch.tensor([ids])


def _windows(
    data: RoundDataModule, config: DictConfig, vocab_size: int, device: torch.device
) -> Iterator[Batch]:
    """Windows of the split, few enough at a time for all their states."""
    for batch in data.spread_windows(config.split, config.sequences):
        rows = max(1, _NUMBERS // (batch.tokens.shape[1] * vocab_size))
        for start in range(0, len(batch.tokens), rows):
            part = batch.rows(start, start + rows)
            yield Batch(part.tokens.to(device), part.targets.to(device))


def _text_figures(
    model: VocabSpace, windows: list[Batch], loaded: Loaded, top: int
) -> dict[str, Any]:
    """What running text shows: the loss, lenses by view, parts, programs."""
    by_view: dict[str, list[Lens]] = {name: [] for name in views(model.head)}
    parts: list[dict[str, Push]] = []
    programs: dict[str, list[Mixture]] = {}
    loss = 0.0
    for batch in windows:
        traced = trace(model, batch.tokens)
        for name, view in views(model.head).items():
            by_view[name].append(lens(traced, model.head, batch.targets, view))
        parts.append(pushes(traced, model.head, batch.targets, min(top, model.vocab_size)))
        for name, mixture in traced.mixtures.items():
            programs.setdefault(name, []).append(mixture)
        flat = traced.logits.flatten(0, 1), batch.targets.flatten()
        loss += float(torch.nn.functional.cross_entropy(*flat, reduction="sum"))
    scored = [batch.targets != IGNORED for batch in windows]
    kind = token_traits(loaded.tokenizer).kind
    classes = [kind[batch.tokens.cpu().numpy()] for batch in windows]
    return {
        "loss": loss / sum(int(each.sum()) for each in scored),
        "lens": {name: depth_rows(lenses, scored) for name, lenses in by_view.items()},
        "parts": part_rows(parts, scored, _kinds(model), model.vocab_size),
        "programs": [
            program_row(name, mixtures, classes, CLASSES) for name, mixtures in programs.items()
        ],
    }


def _kinds(model: VocabSpace) -> dict[str, str]:
    """What does the work at each path."""
    kinds = {name: type(part).__name__ for name, part in model.named_modules()}
    return {name: kinds.get(f"{name}.block", kind) for name, kind in kinds.items()}


def _maps(model: VocabSpace, data: RoundDataModule, config: DictConfig) -> list[dict[str, Any]]:
    """A row for each table over words."""
    maps = model.word_maps()
    windows = [batch.tokens for batch in data.train_windows(config.bigrams)] if maps else []
    pairs = {
        gap: text_pairs(windows, model.vocab_size, gap, config.min_count)
        for gap in {map.gap for map in maps.values()}
    }
    return [map_row(name, map, pairs[map.gap], config.top) for name, map in maps.items()]


def _tests(
    model: VocabSpace, data: RoundDataModule, config: DictConfig, device: torch.device
) -> list[dict[str, Any]]:
    """A row for each pass, change and kind of coordinates."""
    if not config.tests:
        return []
    windows = [batch.tokens for batch in data.spread_windows(config.split, config.tests)]
    tokens = torch.cat(windows)[:, : config.test_tokens].to(device)
    rows = max(1, math.floor(_NUMBERS / (tokens.shape[1] * model.vocab_size)))
    return outcome_rows(model, tokens.split(rows), config.seed)
