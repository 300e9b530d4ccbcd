"""Published layouts of the models that they can hold, and one line for the others."""

import pytest
import torch

import crystalline
from crystalline.errors import UserError
from crystalline.export.published_v1 import from_v1
from crystalline.export.published_v2 import from_v2
from crystalline.export.publishing import published
from crystalline.models.crystal import Crystal
from tests import model_zoo

EVERY = {"mode": "faithful", "attention": "every", "num_heads": 2}


def model(**options) -> Crystal:
    torch.manual_seed(0)
    keys = {"capacity": 9, "founders": 7, "mode": "faithful"} | options
    return Crystal(20, 6, 8, **keys)


def test_living_neurons_come_back():
    own = model().for_export()
    for layout, read in (("v1", lambda *a: from_v1(*a, as_published=True)), ("v2", from_v2)):
        arguments, found = read(published(own, layout, "float32", None), "it")
        assert arguments["capacity"] == 7
        other = Crystal(**arguments)
        other.load_state_dict({k: torch.from_numpy(v) for k, v in found.items()}, strict=False)
        tokens = torch.arange(6)[None]
        assert torch.allclose(other(tokens).logits, own(tokens).logits, atol=1e-6)


def test_pruning_keeps_the_ids_that_occur_and_no_others():
    own = model(attention="every", num_heads=2).for_export()
    arguments, found = from_v2(published(own, "v2", "float32", {17, 3, 4}), "it")
    assert arguments["vocab_size"] == 3
    assert arguments["num_heads"] == 2
    for name in ("embedding.weight", "head.weight", "head.bias"):
        assert torch.equal(torch.from_numpy(found[name]), own.get_parameter(name)[[3, 4, 17]])


@pytest.mark.parametrize(
    ("layout", "options", "reason"),
    [
        ("v1", {"attention": "every", "num_heads": 2}, "attention"),
        ("v2", {"num_layers": 2}, "more than one block"),
        ("v2", {"null_slot": "none"}, "without the slot"),
        ("v2", {"width": "softplus"}, "softplus"),
        ("v2", {"annealing": [2.0, 0.5]}, "a factor on widths"),
        ("v2", {"final_norm": "layer"}, "a norm before the head"),
        ("v2", {"head": "tied"}, "a head without a bias"),
        ("v2", {"attention_kind": "geometric", "attention": "every", "num_heads": 2}, "model such"),
    ],
)
def test_what_a_layout_cannot_hold_is_one_line(layout, options, reason):
    with pytest.raises(UserError, match=f"layout={layout} cannot hold .*{reason}"):
        published(model(**options).for_export(), layout, "float32", None)


def test_neurons_with_a_mass_or_a_scale_are_refused():
    own = model().for_export()
    own.blocks[0].field.scale[1] = 0.5
    with pytest.raises(UserError, match="scale is not 1"):
        published(own, "v1", "float32", None)
    with pytest.raises(UserError, match="such as this Transformer"):
        published(model_zoo.build("transformer"), "v2", "float32", None)


def test_an_old_file_is_no_checkpoint(tmp_path):
    path = tmp_path / "old.crystal"
    path.write_bytes(published(model().for_export(), "v2", "mixed8", None))
    with pytest.raises(UserError, match="published layout of version 2"):
        crystalline.load(path)
