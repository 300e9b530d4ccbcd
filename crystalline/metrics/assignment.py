"""How sure the choices of a model are, beside what noise alone would read (spec section 6)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from crystalline.contract import LanguageModel
from crystalline.eval_mode import evaluating
from crystalline.layers.cross_entropy import IGNORED
from crystalline.metrics.code_counts import counted_positions
from crystalline.quantizers.bottlenecks import Bottleneck


def assignment_entropy(
    model: LanguageModel,
    batches: Iterable[tuple[Tensor, Tensor]],
) -> dict[str, float]:
    """Mean entropy, in nats, of the noiseless assignment over positions that end on a scored token.

    `assignment/entropy/<site>` of every site that tells one, `assignment/noise_floor/<site>` of
    every bottleneck among them, and the means over sites under the names without site. Nothing
    where no site tells one.

    Args:
        model: Left in the mode it was in.
        batches: Tokens and targets (-100: not scored), int64 (batch, pos), each batch with its own
            size; at least one target is scored.
    """
    sums: dict[str, Tensor] = {}
    numbers: dict[str, Tensor] = {}
    floors: dict[str, float] = {}
    books = model.codebooks()
    with evaluating(model):
        for tokens, targets in batches:
            found = model(tokens, codes=True).codes
            told = {site: codes for site, codes in found.items() if codes.entropy is not None}
            if not told:
                return {}
            for site, codes in told.items():
                real = counted_positions(codes, targets != IGNORED)
                entropy = (codes.entropy * real).double().sum()
                sums[site] = sums.get(site, 0) + entropy
                numbers[site] = numbers.get(site, 0) + real.sum()
                if isinstance(book := books.get(site), Bottleneck):
                    warmth = codes.temperature
                    floors[site] = book.noise_floor(1.0 if warmth is None else float(warmth.mean()))
    means = {site: float(total / numbers[site]) for site, total in sums.items()}
    return {**_by_site("assignment/entropy", means), **_by_site("assignment/noise_floor", floors)}


def _by_site(name: str, values: dict[str, float]) -> dict[str, float]:
    mean = {name: sum(values.values()) / len(values)} if values else {}
    return mean | {f"{name}/{site}": value for site, value in values.items()}
