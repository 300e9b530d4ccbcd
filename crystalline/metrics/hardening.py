"""How discrete each layer is already: what its chance still does to the loss (spec section 6)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from crystalline.contract import LanguageModel
from crystalline.eval_mode import evaluating
from crystalline.interpret.sites import layer_of
from crystalline.layers.cross_entropy import IGNORED
from crystalline.quantizers.bottlenecks import Bottleneck


def hardening(
    model: LanguageModel,
    batches: Sequence[tuple[Tensor, Tensor]],
    seeds: int,
) -> dict[str, float]:
    """Change of the loss, in nats a token, when a layer alone stops choosing by chance.

    `hardening/layer_<i>` = loss with the sites of layer i as in evaluation - loss with all sites as
    in training; `hardening/all` the same for all sites. 0: the layer's choices are sure, or nothing
    depends on them; below 0: chance costs. The noise of all other sites is the same in both losses;
    there is no dropout and no trace in the model. Nothing where no site chooses by chance.

    It reseeds torch.

    Args:
        model: Left in the mode it was in.
        batches: Tokens and targets (-100: not scored), int64 (batch, pos), each batch with its own
            size; at least one target is scored.
        seeds: Draws of the noise, each over all batches.
    """
    books = {
        site: book
        for site, book in model.codebooks().items()
        if isinstance(book, Bottleneck) and book.samples
    }
    if not books:
        return {}
    targets = sum(int((wanted != IGNORED).sum()) for _, wanted in batches)

    def loss(sure: Collection[str], seeds: int, draw: Callable[[int], None]) -> float:
        nats = torch.zeros((), dtype=torch.float64)
        for site, book in books.items():
            book.sampled = site not in sure
        for seed in range(seeds):
            for number, (tokens, wanted) in enumerate(batches):
                draw(seed * len(batches) + number)
                nats = nats + model(tokens).cross_entropy(wanted).nats.double().sum()
        return float(nats) / (seeds * targets)

    layers: dict[str, list[str]] = {}
    for site in books:
        if (layer := layer_of(site)) is not None:
            layers.setdefault(f"layer_{layer}", []).append(site)
    with evaluating(model), _paired_noise(list(books.values())) as draw:
        by_chance = loss((), seeds, draw)
        found = {name: loss(sites, seeds, draw) for name, sites in layers.items()}
        found["all"] = loss(books.keys(), 1, draw)  # nothing is drawn: once is enough
    return {f"hardening/{name}": value - by_chance for name, value in found.items()}


@contextmanager
def _paired_noise(books: Sequence[Bottleneck]) -> Iterator[Callable[[int], None]]:
    """The noise of a book is that of the number last given to `draw`, whatever others do.

    Afterwards no book is sampled.
    """
    now = 0

    def draw(number: int) -> None:
        nonlocal now
        now = number

    def reseed(place: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            torch.manual_seed(now * len(books) + place)

        return hook

    handles = [book.register_forward_pre_hook(reseed(i)) for i, book in enumerate(books)]
    try:
        yield draw
    finally:
        for handle, book in zip(handles, books, strict=True):
            handle.remove()
            book.sampled = False
