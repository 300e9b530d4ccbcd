"""The runtime reads what Python writes."""

import numpy as np
import pytest
import torch

from crystalline.export import published_v1, published_v2
from crystalline.export.container import write
from crystalline.export.model_file import Rounding, state_dict, with_weights, without_weights
from crystalline.export.precisions import PRECISIONS
from crystalline.models.crystal import Crystal
from crystalline.pruned_tokenizer import PrunedTokenizer
from crystalline.tokenizer import ByteTokenizer
from tests.crystalline.export.runtime.driving import difference, small_model
from tests.crystalline.export.runtime.tables import trained

pytestmark = pytest.mark.usefixtures("unchecked")
TEXT = "the cat and the hat sat with that other cat; it's 12 o'clock. "


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision(plain, file, precision):
    model = small_model(num_layers=2, attention="every", vocab_size=260)
    content = with_weights(
        without_weights(model, ByteTokenizer(), {}, 0, ""), model, Rounding(precision)
    )
    write(file, content)
    model.load_state_dict(state_dict(content))
    assert difference(plain, file, model) <= 1e-4
    assert plain.output("-m", file, "-p", "é", "--tokenize").split() == [b"195", b"169"]


def test_dead_neurons_and_pruned_tokens_are_left_out(plain, file):
    whole = trained([TEXT * 3], 330)
    tokenizer = PrunedTokenizer.of(whole, whole.encode(TEXT)[::2])
    model = small_model(vocab_size=tokenizer.vocab_size, capacity=20)
    fitted = model.for_export()
    bare = without_weights(fitted, tokenizer, {}, 0, "")
    write(file, with_weights(bare, fitted, Rounding()))
    assert b"13 neurons" in plain.output("-m", file, "--info")
    assert difference(plain, file, model) <= 1e-4
    for text in (TEXT, "other texts at that: nothing\n\n was it  'twas"):
        found = plain.output("-m", file, "-p", text, "--tokenize").split()
        assert [int(token) for token in found] == tokenizer.encode(text)


@pytest.mark.parametrize("precision", published_v1.PRECISIONS)
def test_version_1(plain, file, precision):
    model = small_model(mode="faithful", attention="none", num_codes=2)
    model.blocks[0].field.frozen[[2, 5, 11]] = True
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    file.write_bytes(published_v1.to_v1(tensors, precision=precision, pruned=True))
    found = published_v1.from_v1(file.read_bytes(), "", as_published=True)
    assert difference(plain, file, loaded(found)) <= 1e-4


@pytest.mark.parametrize("precision", published_v2.PRECISIONS)
@pytest.mark.parametrize("attention", ["none", "first"])
def test_version_2(plain, file, attention, precision):
    model = small_model(mode="faithful", attention=attention)
    heads = 4 if attention == "first" else 0
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    file.write_bytes(published_v2.to_v2(tensors, heads, precision=precision, pruned=False))
    found = published_v2.from_v2(file.read_bytes(), "")
    assert difference(plain, file, loaded(found)) <= 1e-4


def loaded(found):
    model = Crystal(**found.arguments)
    weights = {name: torch.from_numpy(np.array(value)) for name, value in found.tensors.items()}
    model.load_state_dict(weights, strict=False)
    return model.eval()
