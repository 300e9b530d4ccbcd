"""What the published models do and what they should do."""

from __future__ import annotations

from typing import Any

from crystalline.models import modes
from crystalline.models.modes import Switch

SWITCHES = {
    # What the head reads: the last state; what it has that the first did not; the last state less a
    # learned share of the first; or the last state, from which the first was taken after one pass.
    "readout": Switch("state", "delta", ("state", "delta", "learned_beta", "forgotten")),
    # Of <q, k>: as it is, over the width, of unit vectors, or over the sum of fading weights too.
    "score_scale": Switch("none", "inv_dim", ("none", "inv_dim", "cosine", "normalized")),
    # How Fourier channels read: by averages over the vocabulary, or by linear maps.
    "fourier_read": Switch("softmax", "linear", ("softmax", "linear")),
    # What Fourier maps tell words apart by: columns that are smooth in a word's id, drawn ones, or
    # smooth ones that learn; and how long columns are where memories run in them.
    "basis": Switch("fourier", "learned", ("fourier", "random", "learned")),
    "basis_norm": Switch("sqrt_v", "unit", ("sqrt_v", "unit")),
    "state_dtype": Switch("bf16", "fp32", ("bf16", "fp32")),
    # How operations are chosen: mixed by a softmax, drawn with Gumbel noise (soft, or hard with a
    # straight-through gradient), and whether evaluation draws too.
    "selection": Switch("soft", "soft", ("soft", "gumbel_soft", "gumbel_hard")),
    "sampled_evaluation": Switch("yes", "no", ("yes", "no")),
    # Which words a slice holds: neighbours by id, or a seeded permutation of all.
    "addressing": Switch("contiguous", "permuted", ("contiguous", "permuted")),
    # v14: a gate for all taps of the convolution or one a tap; decay by key or a running product.
    "tap_gate": Switch("scalar", "per_tap", ("scalar", "per_tap")),
    "key_decay": Switch("per_key", "cumulative", ("per_key", "cumulative")),
    # v15: what the write gate's entropy is of; what the top-k keeps the largest of, whether its k
    # falls while training, and the gradient of what it sets to zero.
    "write_gate": Switch("raw_state", "head", ("raw_state", "head")),
    "top_k_by": Switch("magnitude", "score", ("magnitude", "score")),
    "thinning": Switch("at_once", "gradual", ("at_once", "gradual")),
    "top_k_gradient": Switch("masked", "straight_through", ("masked", "straight_through")),
    # v16: weights of the columns; what inhibits them, and when.
    "vote": Switch("static", "per_position", ("static", "per_position")),
    "inhibition": Switch("static_final", "per_step", ("static_final", "per_step")),
    # v11a: the decayed sum as published (underflowing), or a scan over its horizon.
    "decayed_sum": Switch("published", "mean", ("published", "mean")),
    # v11b: what evaluation reads, the state where a position halts or, as training does, a mean.
    "evaluation_state": Switch("exit", "mean", ("exit", "mean")),
    # v10: updates as published, some 1e-5 of the state, or of unit size before their gain.
    "operand_scale": Switch("published", "unit", ("published", "unit")),
}


def resolve(mode: str, **given: str | None) -> Any:
    """See `modes.resolve`."""
    return modes.resolve(SWITCHES, mode, given)
