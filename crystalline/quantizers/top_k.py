"""Top-k coding: every position takes the k codes most like it and leaves with their weighted sum.

The bottleneck of Codebook Features (Tamkin et al. 2023, arXiv:2310.17230), one codebook per group.
`code_plainly` is the definition; `top_k_coding` is what bottlenecks call and takes the fastest path
there is for its tensors. Estimators are made of what they return, with n the query:

    input_ste   quantized + (n - n.detach()), for aggregate "mean" or "sum": identity to n, and to
                each chosen code its weight
    soft        quantized, for aggregate "softmax"
    hybrid      input_ste of a coding of n.detach(), plus a term of value 0 whose gradient reaches
                scale: kernels.mix(s - s.detach(), codes.detach(), indices), s made of the logits
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.quantizers.kernels import top_k as kernels

Similarity = Literal["dot", "cosine", "euclidean"]
Aggregate = Literal["sum", "mean", "softmax"]


class TopKCoding(NamedTuple):
    """What top-k coding gives for n queries of width d in each group, with books of K codes."""

    indices: Int[Tensor, "groups n k"]
    """int64; the chosen codes, best first."""
    logits: Float[Tensor, "groups n k"]
    """scale * similarity of the chosen codes; gradient reaches queries, codes and scale."""
    weights: Float[Tensor, "groups n k"]
    """1, 1/k or the softmax of `logits`; their gradient goes there."""
    quantized: Float[Tensor, "groups n d"]
    """Weighted sum of the chosen codes; gradient reaches the weights and the chosen codes."""
    counts: Int[Tensor, "groups codebook_size"]
    """int64; how often each code was chosen."""
    log_normaliser: Float[Tensor, "groups n"] | None
    """log of the sum of exp(scale * similarity) over all K codes; no gradient."""
    entropy: Float[Tensor, "groups n"] | None
    """In nats, of the softmax of scale * similarity over all K codes; no gradient."""


def top_k_coding(
    queries: Float[Tensor, "groups n d"],
    codes: Float[Tensor, "groups codebook_size d"],
    k: int,
    *,
    scale: Float[Tensor, "*axes"] | None = None,
    bias: Float[Tensor, "groups codebook_size"] | None = None,
    similarity: Similarity = "cosine",
    aggregate: Aggregate = "mean",
    assignment: bool = False,
) -> TopKCoding:
    """The k codes of greatest similarity to each query, and their weighted sum.

    fp32 tensors on a CPU, and on a GPU with Triton, take a path that holds no matrix of n x K (on a
    GPU if d <= 512 and k <= 252); others take `code_plainly`. Equal similarities go to the lowest
    index, and repeated calls are bit-equal, on every path. On a GPU candidates are nominated in
    fp16 and chosen by exact similarities; `log_normaliser` and `entropy` have the rounding of fp16.

    Args:
        queries: One position a row, of any floating dtype.
        codes: One book a group, of the same dtype.
        k: Codes per position.
        scale: Sharpness 1/temperature, positive, broadcast to (groups, n); 1 where None. It leaves
            the choice as it is.
        bias: Added to the similarity to each code; no gradient reaches it.
        similarity: q.c, its cosine, or q.c - |c|^2 / 2, whose order is that of distance.
        aggregate: Weights 1, 1/k, or a softmax over the k logits.
        assignment: Whether `log_normaliser` and `entropy` are wanted.

    Raises:
        ValueError: If k lies outside [1, codebook_size] or an option is unknown.
    """
    if not 1 <= k <= codes.shape[1]:
        raise ValueError(f"k must lie in [1, {codes.shape[1]}], the codebook_size, got {k}")
    if not kernels.applies(queries, codes, k):
        return code_plainly(
            queries, codes, k, scale=scale, bias=bias, similarity=similarity,
            aggregate=aggregate, assignment=assignment,
        )  # fmt: skip
    scale = _scale_of(scale, queries)
    alike, books, offsets = _comparable(queries, codes, similarity, bias)
    indices, log_normaliser, entropy = kernels.select(
        alike.detach(), books.detach(), offsets.detach(), scale.detach(), k, assignment
    )
    similarities = kernels.dots(alike, books, indices)
    if similarity == "euclidean" or bias is not None:  # a lookup, as a product with 1
        ones = torch.ones_like(alike[..., :1])
        similarities = similarities + kernels.dots(ones, offsets[..., None], indices)
    logits = scale[..., None] * similarities
    weights = _weights_of(logits, aggregate)
    return TopKCoding(
        indices,
        logits,
        weights,
        kernels.mix(weights, codes, indices),
        _counts_of(indices, codes),
        log_normaliser if assignment else None,
        entropy if assignment else None,
    )


def code_plainly(
    queries: Float[Tensor, "groups n d"],
    codes: Float[Tensor, "groups codebook_size d"],
    k: int,
    *,
    scale: Float[Tensor, "*axes"] | None = None,
    bias: Float[Tensor, "groups codebook_size"] | None = None,
    similarity: Similarity = "cosine",
    aggregate: Aggregate = "mean",
    assignment: bool = False,
) -> TopKCoding:
    """The definition of `top_k_coding`, in differentiable steps."""
    with torch.autocast(queries.device.type, enabled=False):  # in bf16 close codes would tie
        alike, books, offsets = _comparable(queries, codes, similarity, bias)
        similarities = alike @ books.mT + offsets[:, None]
        indices = similarities.sort(dim=-1, descending=True, stable=True).indices[..., :k]
        every = _scale_of(scale, queries)[..., None] * similarities
        logits = every.gather(-1, indices)
        weights = _weights_of(logits, aggregate)
        chosen = codes[torch.arange(len(codes), device=codes.device)[:, None, None], indices]
        quantized = (weights[..., None] * chosen).sum(-2)
    log_probs = every.detach().log_softmax(-1)
    return TopKCoding(
        indices,
        logits,
        weights,
        quantized,
        _counts_of(indices, codes),
        every.detach().logsumexp(-1) if assignment else None,
        -(log_probs.exp() * log_probs).sum(-1) if assignment else None,
    )


def _comparable(
    queries: Tensor, codes: Tensor, similarity: Similarity, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, codes and offsets (groups, K) such that similarity + bias is q . c + offset."""
    offsets = codes.new_zeros(codes.shape[:2]) if bias is None else bias.detach()
    if similarity == "dot":
        return queries, codes, offsets
    if similarity == "cosine":
        return F.normalize(queries, dim=-1), F.normalize(codes, dim=-1), offsets
    if similarity == "euclidean":
        return queries, codes, offsets - 0.5 * codes.square().sum(-1)
    raise ValueError(f"similarity must be dot, cosine or euclidean, got {similarity!r}")


def _scale_of(scale: Tensor | None, queries: Tensor) -> Tensor:
    scale = queries.new_ones(()) if scale is None else scale
    return scale.broadcast_to(queries.shape[:2])


def _weights_of(logits: Tensor, aggregate: Aggregate) -> Tensor:
    if aggregate == "sum":
        return torch.ones_like(logits)
    if aggregate == "mean":
        return torch.full_like(logits, 1 / logits.shape[-1])
    if aggregate == "softmax":
        return logits.softmax(-1)
    raise ValueError(f"aggregate must be sum, mean or softmax, got {aggregate!r}")


def _counts_of(indices: Tensor, codes: Tensor) -> Tensor:
    groups, size, _ = codes.shape
    chosen = kernels.flattened(indices, size).flatten()
    counts = indices.new_zeros(groups * size)
    return counts.index_add_(0, chosen, torch.ones_like(chosen)).view(groups, size)
