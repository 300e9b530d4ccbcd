"""What the codes stand for, written down while a model learns."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.run_folder import save_artifact
from callbacks.undisturbed import undisturbed
from crystalline.contract import LanguageModel
from crystalline.errors import UserError
from crystalline.interpret.bucket_text import render, side_by_side
from crystalline.interpret.buckets import BucketTable, Sort, bucket_table
from crystalline.interpret.code_pages import code_pages
from crystalline.interpret.coherence import Levels, site_coherence, site_references
from crystalline.interpret.labels import TokenTraits, token_traits
from crystalline.interpret.reading import Reading, read, read_inputs
from datamodules.batch import without_padding

log = logging.getLogger(__name__)

_SITES_READ = 16  # at a time: the vectors of all together may not fit
_REFERENCE_TOKENS = 20_000  # k-means on more costs minutes on a CPU and moves no figure


class BucketDump(Callback):
    """Writes the bucket table at step 0, at intervals and at the end, and an early-late comparison.

    `buckets/step_0000500.json` (all buckets), `.txt` (the top ones), `early_late.txt` (the run's
    first dump beside its last), for models with segments `code_pages.txt` (every code of the latest
    dump, with places where it stands) and, at the end, `coherence.json`. A model without codes
    gives nothing. Rank 0 works alone; neither random state nor the model's mode changes.

    Args:
        every_n_steps: Rounds between dumps; 0 dumps only first and last.
        positions: Tokens read, at most, but at least one window; the split may hold fewer.
        split: Which text is read: "val", or "train" for the fixed part of the training text.
        top_buckets: Buckets shown a level; the JSON holds all.
        top_strings: Strings kept a bucket.
        sort: Order of the shown buckets: "count", "distinct" or "purity".
        baselines: Whether `coherence.json` holds the references (k-means and others: they cost).

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(
        self,
        *,
        every_n_steps: int,
        positions: int,
        split: str,
        top_buckets: int,
        top_strings: int,
        sort: str,
        baselines: bool,
    ) -> None:
        if split not in ("val", "train"):
            raise UserError(f"callbacks.bucket_dump.split={split}: give val or train")
        if sort not in get_args(Sort):
            raise UserError(
                f"callbacks.bucket_dump.sort={sort}: give one of {', '.join(get_args(Sort))}"
            )
        for name, value, least in (
            ("every_n_steps", every_n_steps, 0),
            ("positions", positions, 1),
            ("top_buckets", top_buckets, 1),
            ("top_strings", top_strings, 1),
        ):
            if value < least:
                raise UserError(f"callbacks.bucket_dump.{name}={value}: give {least} or more")
        self.every_n_steps = every_n_steps
        self.positions = positions
        self.split = split
        self.top_buckets = top_buckets
        self.top_strings = top_strings
        self.sort: Sort = cast(Sort, sort)
        self.baselines = baselines
        self._last_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            self._run(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._run(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if getattr(pl_module, "interrupted", False):
            return
        self._run(trainer, pl_module, last=True)

    def _run(self, trainer: Trainer, pl_module: LightningModule, *, last: bool = False) -> None:
        dumped = trainer.global_step == self._last_step
        if not trainer.is_global_zero or (dumped and not last):
            return
        model = _model(pl_module)
        with undisturbed(pl_module):
            windows = list(self._windows(trainer))
            if not windows or not read(model, [windows[0][:1]]).sites:
                return
            reading = read(model, windows)
            if not dumped:
                self._dump(trainer, reading)
                self._last_step = trainer.global_step
            if last:
                self._coherence(trainer, pl_module, windows, reading)

    def _dump(self, trainer: Trainer, reading: Reading) -> None:
        step = trainer.global_step
        table = bucket_table(reading, _tokenizer(trainer), step=step, top_strings=self.top_strings)
        save_artifact(trainer, f"buckets/step_{step:07d}.json", table.to_json())
        save_artifact(trainer, f"buckets/step_{step:07d}.txt", self._text(table))
        pages = code_pages(reading, table, _tokenizer(trainer))
        if pages:
            save_artifact(trainer, "buckets/code_pages.txt", pages)
        early = _first_dump(Path(trainer.default_root_dir) / "buckets")
        if early is not None and early.step < step:
            text = side_by_side(early, table, top_buckets=self.top_buckets, sort=self.sort)
            save_artifact(trainer, "buckets/early_late.txt", text)
        log.info("%s", self._text(table, _one_site_per_stage(table)).rstrip())

    def _text(self, table: BucketTable, only: list[tuple[str, int]] | None = None) -> str:
        return render(
            table,
            top_buckets=self.top_buckets,
            top_strings=self.top_strings,
            sort=self.sort,
            only=only,
        )

    def _coherence(
        self, trainer: Trainer, pl_module: LightningModule, windows: list[Tensor], reading: Reading
    ) -> None:
        traits = token_traits(_tokenizer(trainer))
        sites: dict[str, Any] = {
            name: site_coherence(reading, site, traits) for name, site in reading.sites.items()
        }
        content = {"step": trainer.global_step, "n_tokens": len(reading.tokens), "sites": sites}
        if self.baselines:
            few = _first_tokens(windows, _REFERENCE_TOKENS)
            part = read(_model(pl_module), few)
            content["n_reference_tokens"] = len(part.tokens)
            for name, figures in self._references(pl_module, few, part, traits):
                sites[name]["references"] = figures
        save_artifact(trainer, "buckets/coherence.json", json.dumps(content, indent=1))

    def _references(
        self,
        pl_module: LightningModule,
        windows: list[Tensor],
        reading: Reading,
        traits: TokenTraits,
    ) -> Iterator[tuple[str, dict[str, Levels]]]:
        model = _model(pl_module)
        embedding = getattr(getattr(model, "embedding", None), "weight", None)
        every = list(reading.sites)
        for start in range(0, len(every), _SITES_READ):
            names = every[start : start + _SITES_READ]
            vectors = read_inputs(model, windows, names)
            for name in names:
                inputs = vectors.pop(name, None)
                if inputs is not None:
                    inputs = inputs.to(pl_module.device)
                with torch.no_grad():
                    figures = site_references(
                        reading, reading.sites[name], traits, inputs=inputs, embedding=embedding
                    )
                yield name, figures

    def _windows(self, trainer: Trainer) -> Iterator[Tensor]:
        """Batches of windows until `positions` tokens are reached; padding is cut off."""
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        loader = data.val_dataloader() if self.split == "val" else data.train_eval_dataloader()
        left = self.positions
        for batch in loader:
            for tokens, _ in without_padding(batch.tokens, batch.targets):
                number = left // tokens.shape[1]
                if left == self.positions:
                    number = max(number, 1)  # a window may be longer than `positions`
                rows = tokens[:number]
                if number:
                    yield rows
                left -= rows.numel()
                if len(rows) < len(tokens):
                    return


def _first_tokens(windows: list[Tensor], number: int) -> list[Tensor]:
    """Whole windows, at least one, until `number` tokens are reached."""
    few: list[Tensor] = []
    for batch in windows:
        rows = batch[: max(0 if few else 1, number // batch.shape[1])]
        if not len(rows):
            break
        few.append(rows)
        number -= rows.numel()
    return few


def _one_site_per_stage(table: BucketTable) -> list[tuple[str, int]]:
    """Levels of the first site for each number of tokens a position covers: enough for a log."""
    firsts: dict[float, str] = {}
    for level in table.levels:
        firsts.setdefault(level.tokens_per_position, level.site)
    shown = set(firsts.values())
    return [(level.site, level.level) for level in table.levels if level.site in shown]


def _first_dump(folder: Path) -> BucketTable | None:
    """The run's earliest dump, also when the run was resumed in another process."""
    dumps = sorted(folder.glob("step_*.json"), key=lambda path: int(path.stem.split("_")[1]))
    return BucketTable.from_json(dumps[0].read_text(encoding="utf-8")) if dumps else None


def _model(pl_module: LightningModule) -> LanguageModel:
    return pl_module.model  # pyright: ignore[reportReturnType]


def _tokenizer(trainer: Trainer) -> Any:
    return trainer.datamodule.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
