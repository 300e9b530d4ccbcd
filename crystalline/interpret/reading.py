"""What every discrete site chose while a model read some text: the raw material of all tables."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crystalline.contract import Codes, LanguageModel
from crystalline.eval_mode import evaluating


@dataclass(frozen=True)
class SiteReading:
    """The choices of one site, padded positions left out."""

    indices: np.ndarray
    """(P, k) int32: the k codes of each position; an unused slot repeats another."""
    first: np.ndarray
    """(P,) int64: index into `Reading.tokens` of the first token that a position covers."""
    last: np.ndarray
    """(P,) int64: index of the last one."""
    codebook_size: int
    shared: bool
    segments: bool = False
    """Whether the model decides where positions end (`Codes.ends`)."""

    @property
    def num_levels(self) -> int:
        """Codebooks: k for levels, 1 where all k codes come from one book."""
        return 1 if self.shared else self.indices.shape[1]

    @property
    def room(self) -> int:
        """Codes of one book that a position can hold."""
        return self.indices.shape[1] if self.shared else 1

    def level(self, level: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes (E,) of a level, and the position (E,) of each.

        With levels E = P; a shared book has one level with an entry for each different code of a
        position: unused slots repeat one that is used.
        """
        if not self.shared:
            return self.indices[:, level], np.arange(len(self.indices))
        new = np.ones(self.indices.shape, dtype=bool)
        for slot in range(1, self.indices.shape[1]):
            new[:, slot] = (self.indices[:, [slot]] != self.indices[:, :slot]).all(1)
        return self.indices[new], new.nonzero()[0]


@dataclass(frozen=True)
class Reading:
    """A text and, for each site, its codes."""

    tokens: np.ndarray
    """(N,) int64: all windows, one after the other."""
    window_start: np.ndarray
    """(N,) bool: True at the first token of each window."""
    sites: dict[str, SiteReading]


def read(model: LanguageModel, batches: Iterable[Tensor]) -> Reading:
    """Run `model` over `batches`, each (B, T) int64 with its own B and T, and keep the codes.

    Memory grows with positions x codes (4 bytes each), not with the codebook size. The model's
    mode is the same afterwards. A model without codes gives a reading without sites.
    """
    tokens, starts, parts, offset = [], [], {}, 0
    device = _device(model)
    with evaluating(model):
        for batch in batches:
            if batch.numel() == 0:
                continue
            output = model(batch.to(device), codes=True)
            for site, codes in output.codes.items():
                parts.setdefault(site, []).append(_site_part(codes, offset, batch.shape[1]))
            tokens.append(batch.reshape(-1).cpu().numpy())
            starts.append(_window_starts(*batch.shape))
            offset += batch.numel()
    return Reading(
        np.concatenate(tokens) if tokens else np.zeros(0, dtype=np.int64),
        np.concatenate(starts) if starts else np.zeros(0, dtype=bool),
        {site: _join(pieces) for site, pieces in parts.items()},
    )


def read_inputs(
    model: LanguageModel, batches: Iterable[Tensor], sites: Iterable[str]
) -> dict[str, Tensor]:
    """Vectors (P, d) float32, on the CPU, that the sites' modules were given, in `read`'s order.

    Left out are sites whose name no module has, or whose first argument is not one vector a
    position.
    """
    modules = dict(model.named_modules())
    seen: dict[str, list[Tensor]] = {site: [] for site in sites if site in modules}
    kept: dict[str, list[Tensor]] = {}
    device = _device(model)
    with evaluating(model), ExitStack() as hooks:
        for site, given in seen.items():
            hook = partial(_keep_first, given)
            hooks.callback(modules[site].register_forward_pre_hook(hook).remove)
        for batch in batches:
            if batch.numel() == 0:
                continue
            output = model(batch.to(device), codes=True)
            for site, given in list(seen.items()):
                codes = output.codes.get(site)
                if codes is None:  # too short for this site: `read` has no position of it either
                    given.clear()
                elif len(given) != 1 or given[0].shape[:-1] != codes.indices.shape[:2]:
                    del seen[site]
                    kept.pop(site, None)
                else:
                    vectors = given.pop().float()
                    vectors = vectors if codes.mask is None else vectors[codes.mask]
                    kept.setdefault(site, []).append(vectors.reshape(-1, vectors.shape[-1]).cpu())
    return {site: torch.cat(parts) for site, parts in kept.items()}


def _keep_first(given: list[Tensor], _: nn.Module, inputs: tuple[Any, ...]) -> None:
    given.append(inputs[0])


def _site_part(codes: Codes, offset: int, length: int) -> SiteReading:
    """One batch's codes with flat token indices; `length` is T, `offset` the tokens read before."""
    rows, positions, k = codes.indices.shape
    last = codes.last_tokens().cpu().numpy().astype(np.int64)
    real = (
        np.ones((rows, positions), dtype=bool) if codes.mask is None else codes.mask.cpu().numpy()
    )
    if codes.ends is None:
        first = last - (codes.span - 1)
    else:  # padding, which may stand in front too, ends nothing
        ended = np.maximum.accumulate(np.where(real, last, -1), axis=1)
        before = np.concatenate([np.full((rows, 1), -1, dtype=np.int64), ended[:, :-1]], axis=1)
        first = np.minimum(before + 1, last)  # a position that saw nothing new shows its last token
    row_start = offset + np.arange(rows)[:, None] * length
    return SiteReading(
        codes.indices.cpu().numpy().astype(np.int32)[real].reshape(-1, k),
        (row_start + np.maximum(first, 0))[real],
        (row_start + last)[real],
        codes.codebook_size,
        codes.shared,
        codes.ends is not None,
    )


def _join(parts: list[SiteReading]) -> SiteReading:
    return SiteReading(
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.last for part in parts]),
        parts[0].codebook_size,
        parts[0].shared,
        parts[0].segments,
    )


def _window_starts(rows: int, length: int) -> np.ndarray:
    starts = np.zeros((rows, length), dtype=bool)
    starts[:, 0] = True
    return starts.reshape(-1)


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
