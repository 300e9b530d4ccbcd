"""A checkpoint under intervention, and what the keys of `crystalline.intervene` ask of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from crystalline.checkpoint import Loaded
from crystalline.contract import Edits, ModelOutput
from crystalline.errors import UserError
from crystalline.eval_mode import evaluating
from crystalline.evaluation import data_of
from crystalline.generate import number, open_checkpoint, open_document, sampling_options
from crystalline.interpret.reading import read
from crystalline.interpret.sites import Code, Site, checked, find_sites, site_positions
from crystalline.interpret.topic_steering import (
    Topic,
    choose_by_effect,
    choose_by_firing,
    code_counts,
)
from datamodules.rounds import RoundDataModule

_ROWS = 16
"""Sequences that are read at a time."""


class Session:
    """A checkpoint and what the keys ask of it."""

    def __init__(self, loaded: Loaded, config: DictConfig) -> None:
        self.loaded = loaded
        self.config = config
        self.model = loaded.model
        self.device = next(loaded.model.parameters()).device

    @cached_property
    def sites(self) -> dict[str, Site]:
        return find_sites(self.model)

    @cached_property
    def data(self) -> RoundDataModule:
        return data_of(self.loaded, self.config)

    def codes(self, least: int = 1) -> list[Code]:
        """What `code` or `codes` name.

        Raises:
            UserError: If they are fewer than `least`, or one of them does not exist.
        """
        listed = self.listed("codes") or [self.config.code]
        if len(listed) < least or None in listed:
            how = "code=<number>, or codes=[...]" if least == 1 else f"codes=[...], {least} or more"
            raise UserError(f"codes: give {how}")
        here = {name: self.config[name] for name in ("site", "level")}
        return checked(self.sites, [_code(entry, here) for entry in listed])

    def listed(self, key: str) -> list[Any]:
        """The key's entries; one that is no list stands for itself, null for none."""
        given = OmegaConf.to_container(OmegaConf.create({key: self.config[key]}))[key]  # type: ignore[index]
        return given if isinstance(given, list) else [] if given is None else [given]

    def prompt(self, key: str) -> Tensor:
        """The key's text (1, pos), the token that opens a document before it.

        Raises:
            UserError: If the model's context cannot hold it.
        """
        tokens = torch.tensor([self.opened(str(self.config[key] or ""))], device=self.device)
        if tokens.shape[1] > self.model.context_length:
            raise UserError(
                f"{key}: {tokens.shape[1]} tokens, the opening one included, are more than the "
                f"model's {self.model.context_length}; give a shorter text"
            )
        return tokens

    def opened(self, text: str) -> list[int]:
        return open_document(self.loaded.tokenizer, text)

    def run(self, tokens: Tensor, edits: Edits | None = None) -> ModelOutput:
        with evaluating(self.model):
            output = self.model(tokens, codes=True, edits=edits)
            _ = output.logits  # formed here, where nothing has a gradient
            return output

    def positions(self, length: int) -> list[int]:
        """The key's tokens.

        Raises:
            UserError: If one lies outside the text.
        """
        chosen = self.listed("positions") or list(range(length))
        if not all(isinstance(at, int) and 0 <= at < length for at in chosen):
            raise UserError(f"positions={chosen}: tokens lie in [0, {length})")
        return chosen

    def places(self, output: ModelOutput, name: str, at: Sequence[int]) -> Tensor:
        """Positions (1, n) of a site that cover the tokens `at`; -1 for none, if all are asked for.

        Raises:
            UserError: If a token that was named has none, or the whole text is too short.
        """
        if name not in output.codes:
            raise UserError(f"site={name}: the text is too short for it; give a longer one")
        places = site_positions(output.codes[name], torch.tensor(at))
        if self.listed("positions") and bool((places < 0).any()):
            raise UserError(f"positions: {name} has not finished a position for each of {list(at)}")
        return places

    def windows(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens and targets of `sequences` windows of the validation split."""
        count = number(self.config, "sequences", int)
        if count < 1:
            raise UserError(f"sequences={count}: give 1 or more")
        numbers = np.arange(min(count, self.data.num_eval_windows("val")))
        for start in range(0, len(numbers), _ROWS):
            batch = self.data.eval_windows("val", numbers[start : start + _ROWS])
            yield batch.tokens.to(self.device), batch.targets.to(self.device)

    def topics(self) -> tuple[list[Topic], dict[str, Tensor]]:
        """Topics with their codes, and how often every code was chosen in the text read for them.

        Those of the key `topics` find their codes on the training split; else there is one, of the
        words in `topic`, with the codes that `code` or `codes` name.

        Raises:
            UserError: If no words are given, or a topic finds no code.
        """
        config = self.config
        if config.get("topics") is None:
            words = [str(word) for word in self.listed("topic")]
            if not words:
                raise UserError("topic: give the words to count, such as topic=[dragon,dragons]")
            topic = Topic(words[0], words, self.codes())
            return [topic], code_counts(read(self.model, (tokens for tokens, _ in self.windows())))
        named: Any = OmegaConf.to_container(config.topics)
        if config.choose not in ("effect", "firing"):
            raise UserError(f"choose={config.choose}: give effect or firing")
        keys = ("sequences", "num_codes", "codes_per_book", "candidates", "windows")
        how: dict[str, Any] = {key: number(config, key, int) for key in keys}
        for key, count in how.items():
            if count < 1:
                raise UserError(f"{key}={count}: give 1 or more")
        windows = self.data.train_windows(how.pop("sequences"))
        reading = read(self.model, (batch.tokens for batch in windows))
        asked = (reading, self.loaded.tokenizer, named)
        if config.choose == "effect":
            how |= {"max_cost": number(config, "max_cost", float)}
            topics, failed = choose_by_effect(self.model, *asked, **how)
        else:
            how = {key: how[key] for key in ("num_codes", "codes_per_book")}
            how |= {"min_share": number(config, "topic_share", float)}
            topics, failed = choose_by_firing(*asked, **how)
        for error in failed.values():
            raise error
        return topics, code_counts(reading)

    def sampling(self) -> dict[str, Any]:
        """What `steering.continuations` takes."""
        samples = number(self.config, "num_samples", int)
        if samples < 1:
            raise UserError(f"num_samples={samples}: give 1 or more")
        rows = number(self.config, "batch_size", int)
        if rows < 1:
            raise UserError(f"batch_size={rows}: give 1 or more")
        own = {"num_samples": samples, "batch_size": rows, "seed": number(self.config, "seed", int)}
        return {**sampling_options(self.config), **own, "stop_id": self.loaded.tokenizer.eot_id}

    def baseline(self) -> Loaded | None:
        """The checkpoint of that key."""
        if self.config.baseline is None:
            return None
        return open_checkpoint(OmegaConf.create({"checkpoint": self.config.baseline}))


def _code(entry: Any, here: Mapping[str, Any]) -> Code:
    """A code as the keys name it.

    Raises:
        UserError: If it is neither a number nor a whole {site, level, code}.
    """
    given = {**here, **(entry if isinstance(entry, dict) else {"code": entry})}
    if set(given) != {"site", "level", "code"} or not all(
        isinstance(given[name], int) and not isinstance(given[name], bool)
        for name in ("level", "code")
    ):
        raise UserError(
            f"codes: {entry} is neither a number nor {{site: ..., level: ..., code: ...}}"
        )
    if given["site"] is None:
        raise UserError("site: give the site that the code belongs to; do=patch needs none")
    return Code(str(given["site"]), given["level"], given["code"])
