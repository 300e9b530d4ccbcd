"""Which parameter gets which scheme."""

import pytest

from crystalline.export.precisions import PRECISIONS, weights_of
from tests import model_zoo

TENSOR = {"int8": "int8_tensor", "int16": "int16_tensor"}


def schemes(name: str, precision: str) -> dict[str, str]:
    weights = weights_of(model_zoo.build(name))
    return {key: PRECISIONS[precision].scheme(weight) for key, weight in weights.items()}


def test_float32_changes_nothing():
    assert set(schemes("crystal", "float32").values()) == {"f32"}


@pytest.mark.parametrize("precision", ["int8", "int16"])
def test_published_precisions_round_all_but_norms_and_the_mlp(precision):
    found = schemes("crystal_faithful", precision)
    kept = {name for name, scheme in found.items() if scheme == "f32"}
    assert {name for name in found if ".mlp." in name or "_norm." in name} <= kept
    assert kept - {name for name in found if ".mlp." in name or "_norm." in name} == {
        "blocks.0.attention.qkv.bias",
        "blocks.0.attention.out.bias",
    }
    assert {found[name] for name in found if name not in kept} == {TENSOR[precision]}
    assert {"embedding.weight", "head.bias", "blocks.0.field.width"}.isdisjoint(kept)


def test_mixed_precisions_leave_embeddings_too():
    found = schemes("crystal_faithful", "mixed8")
    assert found["embedding.weight"] == found["position_embedding.weight"] == "f32"
    assert found["head.weight"] == found["blocks.0.field.positions"] == "int8_tensor"


def test_an_mlp_that_stands_beside_no_field_is_rounded():
    assert schemes("transformer", "int8")["blocks.0.mlp.up.weight"] == "int8_tensor"


@pytest.mark.parametrize("name", ["transformer", "ziggurat_2"])
@pytest.mark.parametrize("precision", ["int8_rows", "int6_groups", "int4_groups"])
def test_parts_of_their_own_are_for_matrices_that_get_smaller(name, precision):
    weights = weights_of(model_zoo.build(name))
    rule = PRECISIONS[precision]
    found = {key: rule.scheme(weight) for key, weight in weights.items()}
    assert found["embedding.weight"] != "f32"
    for key, weight in weights.items():
        if len(weight.shape) < 2:
            assert found[key] == "f32", key
    if name == "ziggurat_2":  # rows of three values
        conv = found["stages.0.blocks.0.mlp_conv.weight"]
        assert conv == ("int8_row" if precision == "int8_rows" else "f32")
