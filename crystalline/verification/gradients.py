"""Do a model's bottlenecks have the gradients that they claim?

Tests G1, G4 and G7 of the spec, on the codes and inputs of a model that is being used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crystalline.contract import LanguageModel
from crystalline.eval_mode import evaluating
from crystalline.interpret.reading import read_inputs
from crystalline.quantizers.bottlenecks import CodebookFeatures, CrystallineBottleneck
from crystalline.quantizers.bottlenecks.assignment import assign_in_chunks
from crystalline.quantizers.bottlenecks.base import Bottleneck

_STEP = 1e-7
"""Of central differences, in fp64: hardly ever across the kink of min(1, k softmax)."""
_FLOOR = 1e-6
"""Errors of slopes far below this do not count: they are divided by slope + floor."""

Points = Float[Tensor, "n d_group"]


def verify(
    model: LanguageModel,
    batches: Sequence[Tensor],
    *,
    points: int,
    directions: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Every check that applies, by site, on some of the vectors that the site is given.

    Args:
        model: Its mode, weights and gradients are the same afterwards.
        batches: (B, T) int64 token ids to read.
        points: Vectors at each site.
        directions: Random directions along which finite differences are taken.
        seed: Of points and directions.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    with evaluating(model):
        codes = model(batches[0].to(device), codes=True).codes
    found: dict[str, dict[str, float]] = {}
    books = {s: book for s, book in model.codebooks().items() if isinstance(book, Bottleneck)}
    for site, vectors in read_inputs(model, batches, books).items():
        original = books[site]
        drawn = torch.randperm(len(vectors), generator=generator)[:points]
        temperature = codes[site].temperature
        tau = 1.0 if temperature is None else float(temperature.float().mean())
        book = deepcopy(original).cpu()  # the checks leave gradients and counts behind
        book.codes.requires_grad_()
        with torch.enable_grad():
            found[site] = _checks(book, vectors[drawn], tau, directions, generator)
    return {site: values for site, values in found.items() if values}


def worst(sites: Iterable[dict[str, float]]) -> dict[str, float]:
    """The worst of every check over all sites: the smallest of what starts with "least"."""
    found: dict[str, float] = {}
    for values in sites:
        for name, value in values.items():
            pick = min if name.startswith("least") else max
            found[name] = pick(found.get(name, value), value)
    return found


def _checks(
    book: Bottleneck, vectors: Points, tau: float, directions: int, generator: torch.Generator
) -> dict[str, float]:
    found = {}
    if isinstance(book, CrystallineBottleneck):
        codes = book.codes[0].detach().double()
        points = F.normalize(book.project(vectors.double()), dim=-1).detach()
        found |= soft_path_errors(points, codes, tau, book.num_codes_k, directions, generator)
        found |= entropy_slopes(points, codes, tau)
        book.estimator, book.noise = "input_ste", False
    if isinstance(book, CrystallineBottleneck | CodebookFeatures):
        found |= straight_through_errors(book, vectors, tau, generator)
    return found


def soft_path_errors(
    points: Points,
    codes: Float[Tensor, "codebook_size d_group"],
    tau: float,
    k: int,
    directions: int,
    generator: torch.Generator,
) -> dict[str, float]:
    """Largest relative error of the gradients written by hand, against central differences.

    Of a random combination of surrogate, entropies and mean assignment; `logits` (similarities),
    `temperature` and `codes` (as directions: the surrogate leaves the codes that it sums alone).
    """
    temperature = torch.full((1, 1), tau, dtype=torch.float64)
    whole = torch.eye(len(codes), dtype=torch.float64)
    unit = F.normalize(codes, dim=-1)

    def soft(book: Tensor, unit: Tensor, points: Tensor, temperature: Tensor) -> list[Tensor]:
        found = assign_in_chunks(book, unit, points, temperature, k, noise=False, detached=False)
        return [found.surrogate, found.entropy, found.mean]

    functions: dict[str, tuple[Callable[[Tensor], list[Tensor]], Tensor]] = {
        "logits": (lambda x: soft(whole, whole, x, temperature), points @ unit.mT),
        "temperature": (lambda x: soft(codes, unit, points, x), temperature),
        "codes": (lambda x: soft(codes, F.normalize(x, dim=-1), points, temperature), codes),
    }
    return {
        f"{name}_error": max(_directional_error(f, at, generator) for _ in range(directions))
        for name, (f, at) in functions.items()
    }


def entropy_slopes(
    points: Points, codes: Float[Tensor, "codebook_size d_group"], tau: float
) -> dict[str, float]:
    """dH(p)/dtau = Var_p(similarity) / tau^3, which is never negative (spec 3, P2)."""
    temperature = torch.full((len(points), 1), tau, dtype=torch.float64, requires_grad=True)
    unit = F.normalize(codes, dim=-1)
    found = assign_in_chunks(codes, unit, points, temperature, 1, noise=False, detached=False)
    (slopes,) = torch.autograd.grad(found.entropy.sum(), temperature)
    similarity = points @ unit.mT
    p = (similarity / tau).softmax(-1)
    mean = (p * similarity).sum(-1, keepdim=True)
    expected = (p * (similarity - mean).square()).sum(-1) / tau**3
    error = (slopes[:, 0] - expected).abs() / (expected + _FLOOR)
    return {"entropy_slope_error": float(error.max()), "least_entropy_slope": float(slopes.min())}


def straight_through_errors(
    book: Bottleneck, vectors: Points, tau: float, generator: torch.Generator
) -> dict[str, float]:
    """Of a bottleneck in training that hands the gradient on past its choice.

    `identity_error`: largest difference of the input's gradient from the output's. `chosen_error`:
    that of the chosen codes' gradient from the sum of what comes back to each, over its largest
    entry; `least_chosen`: the smallest gradient norm of a chosen code. `others`: the largest entry
    of any other code's gradient, of the output and of loss/codebook.
    """
    book.train()
    out = book(vectors[None].requires_grad_(), torch.full((1, 1), tau))
    assert out.codes is not None
    upstream = torch.randn(out.quantized.shape, generator=generator)
    to_inputs, to_codes = torch.autograd.grad(
        out.quantized, (out.inputs, book.codes), upstream, retain_graph=True
    )
    (pull,) = torch.autograd.grad(out.losses["codebook"], book.codes)
    indices = out.codes.indices[0]
    weights = book.weights(indices)
    weights = torch.full(indices.shape, book.share) if weights is None else weights
    expected = torch.zeros_like(book.codes[0])
    shares = upstream[0][:, None] * weights[..., None]
    expected.index_add_(0, indices.flatten(), shares.flatten(0, 1))
    chosen = torch.zeros(book.codebook_size, dtype=torch.bool)
    chosen[indices] = True
    others = torch.cat([to_codes[0, ~chosen], pull[0, ~chosen]])
    error = (to_codes[0] - expected)[chosen].abs().max() / expected.abs().max()
    return {
        "identity_error": float((to_inputs - upstream).abs().max()),
        "chosen_error": float(error),
        "least_chosen": float(to_codes[0, chosen].norm(dim=-1).min()),
        "others": float(others.abs().max()) if len(others) else 0.0,
    }


def _directional_error(
    function: Callable[[Tensor], list[Tensor]], at: Tensor, generator: torch.Generator
) -> float:
    """Relative error of the slope of a random combination of outputs.

    Along a random direction plus that of the gradient: along the former alone slopes in many
    dimensions drown in rounding.
    """
    at = at.detach().clone().requires_grad_()
    outputs = function(at)
    weights = [torch.randn(out.shape, generator=generator, dtype=at.dtype) for out in outputs]

    def total(outputs: list[Tensor]) -> Tensor:
        return torch.stack([(w * out).sum() for w, out in zip(weights, outputs, strict=True)]).sum()

    (gradient,) = torch.autograd.grad(total(outputs), at)
    random = torch.randn(at.shape, generator=generator, dtype=at.dtype)
    direction = F.normalize(random.flatten(), dim=0) + F.normalize(gradient.flatten(), dim=0)
    direction = direction.view_as(at)
    with torch.no_grad():
        step = _STEP * direction
        numeric = float(total(function(at + step)) - total(function(at - step))) / (2 * _STEP)
    claimed = float((gradient * direction).sum())
    return abs(claimed - numeric) / (abs(numeric) + _FLOOR)
