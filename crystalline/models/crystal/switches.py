"""What the published neuron field does and what it should do (docs/crystal.md)."""

from __future__ import annotations

from crystalline.models.modes import Switch

SWITCHES = {
    # Which blocks have attention: none (every position sees itself alone), the first, or every.
    "attention": Switch("none", "first", ("none", "first", "every")),
    # A slot without a value in the field's softmax: the published 1e-8 in the denominator.
    "null_slot": Switch("guard", "none", ("guard", "none")),
    # tau from its parameter: |theta| + 0.1, or 0.1 + softplus(theta).
    "width": Switch("abs", "softplus", ("abs", "softplus")),
    # A birth: half of the parent's value nearby, or half of its mass on either side.
    "split": Switch("published", "exact", ("published", "exact")),
    # What a reading of a neuron's gradient is of.
    "reading": Switch("round", "epoch", ("round", "epoch")),
    # What makes a neuron restless beside the mean of its readings: their variance, which is void
    # at the size that gradients have (and the mean has to be strictly below the quantile), or
    # their standard deviation.
    "calm": Switch("variance", "deviation", ("variance", "deviation")),
    # What a neuron's rate scales.
    "hold": Switch("gradient", "update", ("gradient", "update")),
    # What optimizers do after a birth.
    "optimizer_after_birth": Switch("restart", "extend", ("restart", "extend")),
    # Whether the last tenth of training goes without births.
    "late_births": Switch("allowed", "none", ("allowed", "none")),
    # Head: its own weights and a bias, or the embedding's.
    "head": Switch("own", "tied", ("own", "tied")),
    # Whether a norm stands before the head.
    "final_norm": Switch("none", "layer", ("none", "layer")),
    # First weights: the framework's, or normal with 0.02.
    "init": Switch("framework", "small", ("framework", "small")),
    # A block that is put into a trained stack: with random weights and neurons as old as the
    # training, or adding nothing and with neurons born now.
    "insertion": Switch("random", "silent", ("random", "silent")),
}
