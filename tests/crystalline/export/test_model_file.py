"""Models of several families in files, and back."""

import numpy as np
import pytest
import torch

from crystalline.errors import UserError
from crystalline.export.container import CrystalFile, StoredTensor
from crystalline.export.container_reader import parse
from crystalline.export.model_file import (
    Rounding,
    from_file,
    state_dict,
    with_weights,
    without_weights,
)
from crystalline.export.precisions import PRECISIONS, weights_of
from crystalline.tokenizer import ByteTokenizer
from tests import model_zoo

FAMILIES = ("transformer", "ziggurat_ema", "crystalline_block", "crystal", "crystal_faithful")
ENTRY = {"config": {"model": {"d_model": 16}}, "tokenizer": '{"kind": "bytes"}', "none": None}


def file_of(model, **rounding) -> CrystalFile:
    frame = without_weights(model, ByteTokenizer(), ENTRY, 7, "0" * 64)
    content = with_weights(frame, model, Rounding(**rounding)).to_bytes()
    return parse(np.frombuffer(content, np.uint8), "it")


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_and_buffers_of_every_family_come_back(name):
    model = model_zoo.build(name)
    found = state_dict(file_of(model))
    expected = model.state_dict()
    assert set(found) == set(expected)
    other = model_zoo.build(name)
    for tensor in other.state_dict().values():
        tensor.zero_()
    other.load_state_dict(found)
    for key, tensor in other.state_dict().items():
        assert torch.equal(tensor, expected[key]), key


@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_what_a_precision_rounds_changes_and_by_little(precision):
    model = model_zoo.build("crystal")
    found = state_dict(file_of(model, precision=precision, clip="none"))
    weights = weights_of(model)
    for key, tensor in model.state_dict().items():
        is_exact = key not in weights or PRECISIONS[precision].scheme(weights[key]) == "f32"
        if is_exact and key != "head.weight":  # tied
            assert torch.equal(found[key], tensor), key
        else:
            coarse = {"int4_groups": 1 / 7, "int6_groups": 1 / 31}.get(precision, 1 / 127) / 1.9
            assert (found[key] - tensor).abs().max() <= coarse * tensor.abs().max(), key


def test_a_checkpoint_without_optimizers_comes_out():
    model = model_zoo.build("transformer")
    state = from_file(file_of(model), "it")
    assert state["crystalline"] == ENTRY
    assert state["global_step"] == 7
    assert set(state["state_dict"]) == {f"model.{name}" for name in model.state_dict()}
    with pytest.raises(UserError, match="not hold a whole checkpoint"):
        from_file(CrystalFile({}, {"w": StoredTensor.of(np.zeros(2), "f32")}), "it")


def test_tied_tensors_are_stored_once():
    file = file_of(model_zoo.build("crystal"), precision="int8_rows")
    assert file.metadata["alias.head.weight"] == "embedding.weight"
    assert "head.weight" not in file.tensors
    assert "alias.head.weight" not in file_of(model_zoo.build("crystal_faithful")).metadata


def test_what_the_runtime_has_to_know_is_there_where_it_runs_the_model():
    found = file_of(model_zoo.build("crystal")).metadata
    assert found["runtime.arch"] == "crystal"
    assert found["runtime.vocab_size"] == model_zoo.VOCAB
    other = file_of(model_zoo.build("transformer")).metadata
    assert not any(key.startswith("runtime.") for key in other)


def test_only_what_is_chosen_is_rounded():
    model = model_zoo.build("crystal")  # its head is tied to the embedding

    def rounded(only):
        file = file_of(model, precision="int8_rows", only=only)
        return {name for name, t in file.tensors.items() if t.scheme.name == "int8_row"}

    assert rounded("^head") == rounded("embedding.weight$") - {"position_embedding.weight"}
    assert rounded(r"field\.positions") == {f"blocks.{i}.field.positions" for i in (0, 1)}


def test_clipping_can_be_chosen():
    model = model_zoo.build("transformer")
    stored = {
        clip: file_of(model, precision="int4_groups", clip=clip).to_bytes()
        for clip in (None, "mse", "none")
    }
    assert stored[None] == stored["mse"] != stored["none"]


def test_weights_that_are_no_numbers_are_one_line():
    model = model_zoo.build("transformer")
    torch.nn.init.constant_(model.embedding.weight, float("nan"))
    with pytest.raises(UserError, match=r"embedding\.weight is not finite"):
        file_of(model, precision="int8")
    file_of(model)  # as it is


def test_an_expression_that_is_found_in_no_name_is_said():
    with pytest.raises(UserError, match="only=heads: it is found in no parameter's name"):
        file_of(model_zoo.build("crystal"), precision="int8_rows", only="heads")
