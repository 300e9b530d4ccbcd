"""What the segments of a model are, beside the units that people and tokenizers know."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from callbacks.arguments import at_least_one
from callbacks.run_folder import save_artifact
from callbacks.undisturbed import undisturbed
from callbacks.validation_part import validation_part
from crystalline.interpret.buckets import bucket_table
from crystalline.interpret.reading import Reading, read
from crystalline.interpret.segment_overlay import overlay_html, overlay_text
from crystalline.metrics.segments import segment_figures
from crystalline.text_table import text_table
from crystalline.tokenizer import Tokenizer
from datamodules.batch import without_padding
from datamodules.documents import Document, Split
from datamodules.tokenizer_builders import TokenizerBuilder

log = logging.getLogger(__name__)


class Segments(Callback):
    """Logs `segments/<site>/...` at every validation; the summary has those of the tested weights.

    See `crystalline.metrics.segments`. After the test the run folder also gets `segments.json` and
    `.txt` with the figures, and `overlay.html` and `.txt`, the first windows with their segments,
    in `segments/`. Sites without segments are left out. Rank 0 works alone.

    Args:
        positions: Validation tokens that are read, in whole windows.
        bpe: Makes the tokenizer whose tokens segments are compared with; None: no such comparison.
            Data that is no text has none.
        bpe_tokens: Training tokens that `bpe` sees, from the first one on.
        cache_dir: Where `bpe` keeps what takes long, in `tokenizers`.
        draws: Random orders of segments that figures of chance are means of.
        windows: Of the overlay, at most.
        seed: Of the random orders.

    Raises:
        UserError: If a number is below 1.
    """

    def __init__(
        self,
        positions: int,
        bpe: TokenizerBuilder | None,
        bpe_tokens: int,
        cache_dir: str,
        draws: int,
        windows: int,
        seed: int,
    ) -> None:
        at_least_one(
            "segments", positions=positions, bpe_tokens=bpe_tokens, draws=draws, windows=windows
        )
        self.positions, self.bpe, self.bpe_tokens = positions, bpe, bpe_tokens
        self.folder = Path(cache_dir).expanduser() / "tokenizers"
        self.draws, self.windows, self.seed = draws, windows, seed
        self.figures: dict[str, float] = {}
        """Of the summary."""
        self._tokenizer: Tokenizer | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            found = self._measured(trainer, self._reading(trainer, pl_module))
            if found:
                pl_module.record(_by_name(found))

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        reading = self._reading(trainer, pl_module)
        found = self._measured(trainer, reading)
        self.figures = _by_name(found)
        if not found:
            return
        tokenizer = _data(trainer).tokenizer
        table = _figure_table(found)
        page = overlay_html(
            reading, bucket_table(reading, tokenizer), tokenizer, windows=self.windows
        )
        for name, content in {
            "segments.json": json.dumps(found, indent=1),
            "segments.txt": table,
            "overlay.html": page,
            "overlay.txt": overlay_text(reading, tokenizer, windows=self.windows),
        }.items():
            save_artifact(trainer, f"segments/{name}", content)
        log.info("segments:\n%s", table.rstrip())

    def _reading(self, trainer: Trainer, pl_module: Any) -> Reading:
        with undisturbed(pl_module):
            part = validation_part(trainer, pl_module, self.positions)
            rows = [rows.tokens for batch in part for rows in without_padding(*batch)]
            return read(pl_module.model, rows)

    def _measured(self, trainer: Trainer, reading: Reading) -> dict[str, dict[str, float]]:
        if not any(site.segments for site in reading.sites.values()):
            return {}
        tokenizer, bpe = _data(trainer).tokenizer, self._bpe(trainer)
        return segment_figures(reading, tokenizer, bpe, draws=self.draws, seed=self.seed)

    def _bpe(self, trainer: Trainer) -> Tokenizer | None:
        """Made when it is first asked for."""
        data = _data(trainer)
        ids = data.train_tokens() if data.is_text else None
        if self._tokenizer is None and self.bpe is not None and ids is not None:
            split = _documents(ids[: self.bpe_tokens].tolist(), data.tokenizer)
            self._tokenizer = self.bpe.build(split, self.folder)
        return self._tokenizer


def _documents(ids: list[int], tokenizer: Tokenizer) -> Split:
    """The texts between special tokens; a character that is cut at the end is left out."""
    pieces = [tokenizer.token_bytes(token) or None for token in ids]
    documents, parts = [], []
    for piece in [*pieces, None]:
        if piece is not None:
            parts.append(piece)
        elif parts:
            text = b"".join(parts).decode(errors="ignore").encode()
            documents.append(Document(str(len(documents)), memoryview(text)))
            parts = []
    return Split(documents)


def _by_name(found: dict[str, dict[str, float]]) -> dict[str, float]:
    return {
        f"segments/{site}/{name}": value
        for site, figures in found.items()
        for name, value in figures.items()
    }


def _figure_table(found: dict[str, dict[str, float]]) -> str:
    """A row a figure, a column a site."""
    names = dict.fromkeys(name for figures in found.values() for name in figures)
    rows = [
        {"figure": name, **{site: figures.get(name, "") for site, figures in found.items()}}
        for name in names
    ]
    return text_table(rows) + "\n"


def _data(trainer: Any) -> Any:
    return trainer.datamodule
