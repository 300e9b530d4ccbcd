"""Models whose states are over words, in files of eight bits a weight and back."""

import numpy as np
import pytest
import torch

from crystalline.export.container_reader import parse
from crystalline.export.model_file import Rounding, state_dict, with_weights, without_weights
from crystalline.tokenizer import ByteTokenizer
from tests.crystalline.models.vocab_space.test_variants import make

WORDS = ByteTokenizer().vocab_size


def build(variant):
    sizes = {"slice_width": 64} if variant == "v12_sparse" else {}
    return make(variant, WORDS, 40, small=False, num_steps=3, **sizes).eval()


def error_in(variant, precision):
    """Of the logits after a file of that precision, relative to them; and names in the file."""
    model, other = build(variant), build(variant)
    entry = {"config": {"model": {}}, "tokenizer": ByteTokenizer().to_json()}
    frame = without_weights(model, ByteTokenizer(), entry, 0, "0" * 64)
    content = with_weights(frame, model, Rounding(precision=precision)).to_bytes()
    found = state_dict(parse(np.frombuffer(content, np.uint8), "it"))
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(found)
    tokens = torch.randint(WORDS, (2, 40))
    with torch.no_grad():
        expected, logits = model(tokens).logits, other(tokens).logits
    return float((logits - expected).norm() / expected.norm()), set(found)


@pytest.mark.parametrize("variant", ["v8_graph", "v9_meta", "v12_sparse"])
def test_rounded_rows_move_scores_by_little(variant):
    error, names = error_in(variant, "int8_rows")
    assert 0 < error < 0.02
    assert not [name for name in names if "index" in name]  # addresses of slices are made anew


@pytest.mark.parametrize("variant", ["v8_graph", "v12_sparse"])
def test_in_single_precision_scores_come_back(variant):
    assert error_in(variant, "float32")[0] == 0
