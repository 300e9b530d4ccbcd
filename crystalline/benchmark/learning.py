"""Suites of learning: models of a family on the same data, one run of `crystalline.run` each."""

from __future__ import annotations

import logging
import math
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict

from callbacks.throughput import reset_peak_memory
from crystalline.benchmark.curve import status
from crystalline.benchmark.learning_table import Row, text, write_json, write_page, write_picture
from crystalline.benchmark.watching import LossCurve, RoundTimes
from crystalline.command import CONF_DIR, Run
from crystalline.contract import LanguageModel
from crystalline.devices import resolve_devices
from crystalline.equal_cost import parameters, widened
from crystalline.errors import UserError
from crystalline.experiment import Experiment
from crystalline.explain import explain, suggest
from crystalline.files import write_atomically
from crystalline.from_config import from_config
from crystalline.generate import number
from crystalline.metrics.ngram import NGram
from crystalline.metrics.token_loss import bits_per_byte
from crystalline.summary import Origin, origin
from crystalline.usage import options_of
from crystalline.verification.causality import first_leak
from datamodules.batch import IGNORED
from datamodules.rounds import RoundDataModule
from lightning_modules.divergence import TrainingDiverged

log = logging.getLogger(__name__)

LOGGED = 100
"""Rows of metrics that a short run has at least, if it has as many rounds."""


def benchmark(config: DictConfig) -> None:
    """Train every model and its transformer; table, JSON, page and picture at and beside `output`.

    They are written anew after each run. A model that fails is a row with its error.

    Raises:
        UserError: For an unknown model, a bad number, several devices, or data that are not here.
    """
    names = _chosen(config)
    for key in ("minutes", "tokens"):
        if config[key] is not None and number(config, key, float) <= 0:
            raise UserError(f"{key}={config[key]}: give more than 0")
    if resolve_devices(config.trainer).count != 1:
        raise UserError("a benchmark trains on one device; take trainer.devices=1")
    data: RoundDataModule = from_config(config.data)
    data.prepare_data()
    data.setup("fit")
    rows = list(_references(config, data))
    unigram = next((row.val_loss for row in rows if row.name == "1-gram"), None)
    output = Path(config.output)
    suite = Suite(config, data.vocab_size, unigram, output.with_suffix(""))
    widths: set[tuple[int, int]] = set()
    for count, name in enumerate(names, 1):
        log.info("%d of %d: %s", count, len(names), name)
        model = suite.model(name)
        rows.append(suite.row(name, model))
        if config.transformers and rows[-1].parameters is not None:
            width = suite.width(rows[-1].parameters)
            if (width["d_model"], width["d_mlp"]) not in widths:
                rows.append(suite.row(f"transformer like {name}", suite.baseline(width)))
            widths.add((width["d_model"], width["d_mlp"]))
        for write in (write_json, write_page, write_picture):
            write(output, rows)
    sys.stdout.write(text(rows) + "\n")
    log.info("written to %s and, beside it, .md and .png", output)


def _chosen(config: DictConfig) -> list[str]:
    every = options_of(CONF_DIR / "model", str(config.family))
    given = every if config.models is None else config.models
    names = [given] if isinstance(given, str) else list(given)
    for name in names:
        if name not in every:
            raise UserError(f"models: there is no {name!r}{suggest(str(name), every)}")
    if not names:
        raise UserError(f"models: there are none in conf/model/{config.family}")
    return sorted(names, key=_natural) if config.models is None else names


def _natural(name: str) -> tuple[int, str]:
    """v9 before v10."""
    digits = "".join(c for c in name.split("_")[0] if c.isdigit())
    return int(digits or 0), name


def _references(config: DictConfig, data: RoundDataModule) -> Iterator[Row]:
    """n-grams and published figures, scored on the whole validation split as models are."""
    loader: Any = data.val_dataloader()
    batches = list(loader)
    targets = sum(int((batch.targets != IGNORED).sum()) for batch in batches)
    size = None if data.split_bytes is None else data.split_bytes["val"] / targets
    ids = data.train_tokens()
    for order in config.ngram_orders if ids is not None else ():
        assert ids is not None
        model = NGram(ids[: int(config.ngram_tokens)], data.vocab_size, order)
        nats = 0.0
        for batch in batches:
            scored = batch.targets.numpy() != IGNORED
            wanted = np.where(scored, batch.targets.numpy(), 0)
            nats -= float(np.log(model.probabilities(batch.tokens.numpy(), wanted)[scored]).sum())
        counts = sum(len(level.keys) for level in model.levels)
        loss = nats / targets
        yield Row(f"{order}-gram", "n-gram", counts, loss, bits_per_byte(loss, size))
    for bpb in config.references if size is not None else ():
        assert size is not None
        yield Row(f"reference {bpb}", "reference", None, bpb * math.log(2) * size, bpb)


@dataclass(frozen=True)
class Suite:
    """What the runs of a benchmark share."""

    config: DictConfig
    vocab_size: int
    unigram: float | None
    """Validation loss of word frequencies, nats."""
    folder: Path
    """Each run has a folder below it."""

    def model(self, name: str) -> DictConfig:
        """The model's own options under those of the benchmark.

        Raises:
            UserError: If it has no such option.
        """
        own: DictConfig = compose("config", [f"model={self.config.family}/{name}"]).model
        for key in self.config.model:
            if key not in own:
                raise UserError(f"model.{key}: {name} has no such option")
        merged = OmegaConf.merge(own, self.config.model)
        assert isinstance(merged, DictConfig)
        return merged

    def width(self, target: int) -> dict[str, int]:
        """Of a transformer with that many parameters."""

        def build(d_model: int, d_mlp: int) -> LanguageModel:
            widths = {"d_model": d_model, "d_mlp": d_mlp, "vocab_size": self.vocab_size}
            with torch.device("meta"):
                return from_config(self.config.baseline, **widths)

        found = widened(build, parameters, target, 2 * self.config.baseline.num_heads)
        return {"d_model": found.d_model, "d_mlp": found.d_mlp}

    def baseline(self, width: dict[str, int]) -> DictConfig:
        resolved: Any = OmegaConf.to_container(self.config.baseline, resolve=True)
        return DictConfig({**resolved, **width})

    def row(self, name: str, model: DictConfig) -> Row:
        """Train the model; what it reached, or why it did not."""
        kind = "transformer" if name.startswith("transformer") else "model"
        folder, curve = self.folder / name.replace(" ", "_"), LossCurve()
        row = Row(name, kind)
        started_s = time.perf_counter()
        try:
            row = replace(row, parameters=self._checked(model, folder))
            rounds = self._rounds(model, folder)
            experiment = self._experiment(model, folder, rounds)
            experiment.callbacks.append(curve)
            reset_peak_memory()
            summary = experiment.run()
        except Exception as error:
            log.warning("%s: %s", name, explain(error))
            write_atomically(folder / "error.txt", traceback.format_exc())
            fate = "diverged" if isinstance(error, TrainingDiverged) else "failed"
            return replace(row, status=fate, error=explain(error), curve=tuple(curve.val))
        return replace(
            row,
            val_loss=summary["val/loss"],
            val_bpb=summary["val/bpb"],
            train_loss=summary["train/loss"],
            steps=summary["steps"],
            tokens=summary["tokens_seen"],
            tokens_per_second=summary["tokens_per_second"],
            peak_memory_mib=summary["peak_memory_mib"],
            seconds=time.perf_counter() - started_s,
            status=status(_losses(curve.train), _losses(curve.val), self.unigram),
            curve=tuple(curve.val),
        )

    def _checked(self, model: DictConfig, folder: Path) -> int:
        """Parameters of a model that reads nothing of the future."""
        built = self._experiment(model, folder, 1).model
        leak = first_leak(built)
        if leak is not None:
            raise UserError(f"not causal: {leak}")
        return parameters(built)

    def _rounds(self, model: DictConfig, folder: Path) -> int:
        """Rounds of the budget, at the speed of a short start that is thrown away."""
        if self.config.tokens is not None:
            return max(1, int(self.config.tokens) // self._tokens_per_round)
        seconds = 60.0 * self.config.minutes
        experiment = self._experiment(model, folder, sys.maxsize, timed=True)
        times = RoundTimes(min(self.config.probe_s, seconds / 10))
        experiment.callbacks.append(times)
        experiment.compile()
        experiment.trainer.fit(experiment.module, datamodule=experiment.data)
        return max(1, round(seconds / times.round_s))

    @property
    def _tokens_per_round(self) -> int:
        return self.config.data.batch_size * self.config.data.seq_len

    def _experiment(
        self, model: DictConfig, folder: Path, rounds: int, *, timed: bool = False
    ) -> Experiment:
        names = [field.name for field in fields(Run)]
        run = OmegaConf.masked_copy(self.config, names)
        with open_dict(run):
            run.model = model
            run.paths.run_dir = str(folder)
            run.trainer.max_steps = rounds
            run.trainer.val_check_interval = max(1, rounds // self.config.validations)
            often = max(1, rounds // LOGGED)
            run.trainer.log_every_n_steps = min(often, run.trainer.log_every_n_steps)
            if timed:
                run.callbacks, run.logger = {}, {}
                run.trainer.limit_val_batches = 0
        asked = origin()
        choice = f"{self.config.family}/{folder.name}"
        return Experiment(run, Origin(asked.command, {**asked.choices, "model": choice}, []))


def _losses(curve: Sequence[tuple[int, float]]) -> list[float]:
    return [loss for _, loss in curve]
