"""Codes that nothing needs move to where they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightning
import torch
import torch.distributed as dist
from jaxtyping import Bool
from torch import Tensor

from callbacks.code_changes import follow_rank_0, forget_momentum
from crystalline.contract import LanguageModel
from crystalline.errors import UserError
from crystalline.quantizers.calibration import visit_codebooks
from crystalline.quantizers.codebook import Codebook
from lightning_modules.graphs import Recording


class DeadCodeReset(lightning.Callback):
    """At intervals, gives every site's dead codes the place of inputs that are served badly.

    With a `margin` so do living codes whose absence would cost little, such as several that share
    what one could carry.

    Inputs are those of the global batch just done, or of its first sequences, so nothing has to be
    kept between rounds and a resumed run does the same. Under DDP rank 0 chooses and the others
    follow. Optimizers forget the momentum of moved codes. Where rounds are replayed as a CUDA
    graph, so are resets.

    Args:
        every_n_steps: Rounds between resets.
        idle_positions: Training positions without a choice after which a code is dead.
        max_fraction: At most this share of a book moves at once.
        margin: A living code moves where that lowers the error of its site by this many times what
            its absence adds; None: only dead codes move.
        error_power: Inputs become codes in proportion to this power of their error; see
            `Codebook.relocate_codes`.
        positions: Tokens of the round that are looked at, in whole sequences.
        until: Share of training after which codes are left alone, so that they can settle.
        seed: With the round, decides which inputs become codes.

    Raises:
        UserError: If the margin is not positive, or the power below 0.
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        idle_positions: int = 50_000,
        max_fraction: float = 0.05,
        margin: float | None = None,
        error_power: float = 1.0,
        positions: int = 16_384,
        until: float = 0.9,
        seed: int = 0,
    ) -> None:
        if margin is not None and not margin > 0:
            raise UserError(f"callbacks.dead_codes.margin={margin}: give more than 0, or null")
        if not error_power >= 0:  # a NaN too
            raise UserError(f"callbacks.dead_codes.error_power={error_power}: give 0 or more")
        self.every_n_steps = every_n_steps
        self.idle_positions = idle_positions
        self.max_fraction = max_fraction
        self.margin = margin
        self.error_power = error_power
        self.positions = positions
        self.until = until
        self.seed = seed
        self._revival: Revival | None = None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % self.every_n_steps or step > self.until * pl_module.total_steps:
            return
        books = {s: b for s, b in pl_module.model.codebooks().items() if b.maintained}
        if not books:
            return
        if self.margin is None and not self._some_dead(books.values()):
            pl_module.record({"codebook/revived": 0})
            return
        revived = {site: torch.zeros_like(b.idle, dtype=torch.bool) for site, b in books.items()}
        if trainer.is_global_zero:
            tokens = trainer.datamodule.train_batch(step - 1).tokens  # type: ignore[attr-defined]
            tokens = tokens[: -(-self.positions // tokens.shape[1])]
            if self._revival is None:
                limits = {
                    "idle_positions": self.idle_positions,
                    "max_fraction": self.max_fraction,
                    "margin": self.margin,
                    "error_power": self.error_power,
                }
                self._revival = Revival(pl_module.model, limits, pl_module.replays)
            seed = self.seed * 1_000_003 + step
            revived = self._revival(tokens.to(pl_module.device), seed)
        for site, book in books.items():
            if trainer.world_size > 1:
                follow_rank_0(book)
                flags = revived[site].to(torch.uint8)
                dist.broadcast(flags, src=0)
                revived[site] = flags.bool()
            forget_momentum(trainer.optimizers, book.codes, revived[site])
        count = torch.stack([flags.sum() for flags in revived.values()]).sum()
        pl_module.record({"codebook/revived": int(count)})

    def _some_dead(self, books: Iterable[Codebook]) -> bool:
        return bool(torch.cat([b.has_dead_codes(self.idle_positions) for b in books]).any())


Moved = dict[str, Bool[Tensor, "levels codebook_size"]]
"""By site: which codes have moved."""


class Revival:
    """Relocates codes of all maintained sites of a model, site after site.

    Args:
        model: Its mode is the same afterwards.
        limits: Of `Codebook.relocate_codes`.
        recorded: Whether calls are replayed as a CUDA graph, which waits less.
    """

    def __init__(self, model: LanguageModel, limits: Mapping[str, Any], recorded: bool) -> None:
        self.model = model
        self.limits = limits
        self._generator = torch.Generator(next(model.parameters()).device)
        self._work = Recording(self._revive, [self._generator]) if recorded else self._revive

    def __call__(self, tokens: Tensor, seed: int) -> Moved:
        """Codes move to inputs that `tokens` make, drawn by `seed`."""
        self._generator.manual_seed(seed)
        return self._work(tokens)

    def _revive(self, tokens: Tensor) -> Moved:
        moved: Moved = {}

        def revive(site: str, book: Codebook, inputs: Tensor) -> None:
            moved[site] = book.relocate_codes(inputs, **self.limits, generator=self._generator)

        visit_codebooks(self.model, tokens, revive)
        return moved
