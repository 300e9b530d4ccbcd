"""Bits that the codes of a text take: how much passes through all sites, a token (spec section 5).

A site's book has a marginal pi, the shares of its codes in the very text that is coded. Where a
position chose one code, that takes -log2 pi(code) bits, on average the entropy of the choice. A set
of k different codes is coded as if it were drawn from pi without order and repetition:

    P(S) = product over S of pi_j / e_k(pi),   e_k: sum of such products over all sets of k codes

which is log2 C(K, k) bits where all codes are as common and 0 for a set that never changes, else an
upper bound on the entropy of the set. Where the number of codes differs by position, its own length
comes first. Levels of a residual quantizer add up.

Sites are coded one by one, and positions without their past: all of it is an upper bound on the
information that passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Int
from torch import Tensor

from crystalline.contract import Codes
from crystalline.metrics.code_counts import count_codes, count_sizes


@dataclass
class SiteCounts:
    """What a site has chosen."""

    codes: Int[Tensor, "levels codebook_size"]
    """int64; how often each code."""
    sizes: Int[Tensor, " sizes"]
    """int64; at how many positions 0, 1, ... codes."""
    shared: bool
    """Whether a position's codes are a set from one book."""
    varies: bool
    """Whether positions may choose fewer than the most there are sizes for."""

    def bits(self) -> float:
        """Of all positions."""
        nats = _code_nats(self.codes)
        if self.shared:
            nats += _code_nats(self.sizes[None])
            sizes = self.sizes.cpu().numpy()
            nats += float((sizes * _log_sums(self.codes[0], len(sizes) - 1))[sizes > 0].sum())
        return nats / math.log(2)

    def limit(self) -> float:
        """log2 of the number of choices that a position has, times the number of positions."""
        size, most = self.codes.shape[1], len(self.sizes) - 1
        if not self.shared:
            choices = size**most
        else:
            fewest = 0 if self.varies else most
            choices = sum(math.comb(size, k) for k in range(fewest, most + 1))
        return math.log2(choices) * int(self.sizes.sum())


def _code_nats(counts: Int[Tensor, "levels n"]) -> float:
    """Nats that an ideal code of the counts' own shares takes for all of them."""
    total = counts.sum(-1, keepdim=True).clamp(min=1)
    return float((torch.special.entr(counts.double() / total) * total).sum())


def _log_sums(counts: Int[Tensor, " codebook_size"], most: int) -> np.ndarray:
    """Logarithms of e_k(pi) for k = 0 to `most`; -inf above the number of codes in use."""
    used = counts[counts > 0].double().cpu().numpy()
    scale = max(1, most)  # e_k(scale pi) = scale**k e_k(pi) stays between 1 / e**k and e**k or so
    sums = np.zeros(most + 1)
    sums[0] = 1.0
    for weight in scale * used / used.sum():
        sums[1:] += weight * sums[:-1]
    with np.errstate(divide="ignore"):
        return np.log(sums) - np.arange(most + 1) * math.log(scale)


class CodeRate:
    """Sums what is needed for bits a token, over batches and processes."""

    def __init__(self) -> None:
        self.sites: dict[str, SiteCounts] = {}
        self.tokens: Tensor | int = 0

    def update(self, codes: Mapping[str, Codes], scored: Bool[Tensor, "batch tokens"]) -> None:
        """Add the codes of a batch at positions that end on a scored token."""
        self.tokens = self.tokens + scored.sum()
        for site, found in codes.items():
            counts, sizes = count_codes(found, scored), count_sizes(found, scored)
            if site in self.sites:
                self.sites[site].codes += counts
                self.sites[site].sizes += sizes
            else:
                varies = found.weights is not None
                self.sites[site] = SiteCounts(counts, sizes, found.shared, varies)

    def over_processes(self) -> CodeRate:
        """The sums over all processes, which have the same sites."""
        if self.sites and dist.is_available() and dist.is_initialized():
            tensors = [t for site in self.sites.values() for t in (site.codes, site.sizes)]
            for tensor in (self.tokens, *tensors):
                dist.all_reduce(tensor)
        return self

    def figures(self) -> dict[str, float]:
        """`code_bits` a token of all sites, `code_bits/<site>`, and `code_bits_limit`.

        The limit is what the sites could pass at most: sums of log2 C(K, k). Nothing without sites.
        """
        if not self.sites:
            return {}
        tokens = int(self.tokens)
        bits = {name: site.bits() / tokens for name, site in self.sites.items()}
        limit = sum(site.limit() for site in self.sites.values()) / tokens
        return {
            "code_bits": sum(bits.values()),
            **{f"code_bits/{name}": value for name, value in bits.items()},
            "code_bits_limit": limit,
        }
