"""Usage, dead codes and perplexity of every codebook while it trains."""

from __future__ import annotations

from typing import Any

import lightning

from crystalline.metrics.codebook_usage import usage_by_site


class CodebookUsage(lightning.Callback):
    """Logs `codebook/<figure>/<site>` and their means, each over a window of training positions.

    Counting costs nothing here: codebooks count their own choices. A window is closed at the first
    logging round at which every site has `positions` choices, so figures are comparable over time.

    Args:
        positions: Training positions a window holds at least.
    """

    def __init__(self, positions: int = 100_000) -> None:
        self.positions = positions
        self.figures: dict[str, float] = {}
        """The last closed window, by metric name."""

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not pl_module.logs_now:
            return
        books = pl_module.model.codebooks()
        seen = {site: int(book.counts[0].sum()) for site, book in books.items()}
        if not seen or min(seen.values()) < self.positions:
            return
        self.figures = usage_by_site({site: book.counts for site, book in books.items()})
        pl_module.record(self.figures)
        for book in books.values():
            book.counts.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"figures": self.figures}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.figures = state_dict["figures"]
