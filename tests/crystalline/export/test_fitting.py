"""What a file holds of a model: living neurons and tokens that are kept."""

import pytest
import torch

from crystalline.errors import UserError
from crystalline.export.fitting import fitted, vocabulary_tensors
from crystalline.pruned_tokenizer import PrunedTokenizer
from tests import model_zoo
from tests.crystalline.export.untrained import FAITHFUL, loaded


def test_room_that_no_neuron_lives_in_is_left_out():
    whole = loaded()
    found = fitted(whole, None, "it")
    assert len(found.model.get_parameter("blocks.0.field.positions")) == 7
    tokens = torch.arange(12)[None]
    assert torch.allclose(found.model(tokens).logits, whole.model(tokens).logits, atol=1e-6)
    assert found.step == whole.step
    assert len(whole.model.get_parameter("blocks.0.field.positions")) == 9  # left as it is


@pytest.mark.parametrize("options", [{}, FAITHFUL])  # a tied head, a head of its own with a bias
def test_a_pruned_model_says_of_kept_tokens_what_the_whole_one_says(options):
    whole = loaded(**options)
    occurring = whole.tokenizer.encode("tan tan nora")
    found = fitted(whole, occurring, "it")
    assert isinstance(found.tokenizer, PrunedTokenizer)
    assert found.model.vocab_size == found.tokenizer.vocab_size < whole.tokenizer.vocab_size
    assert found.model.runtime_metadata()["vocab_size"] == found.tokenizer.vocab_size
    old = torch.tensor(found.tokenizer.original)
    ids = torch.tensor([found.tokenizer.encode("nora nora tan")])
    expected = whole.model(old[ids]).logits[..., old]
    assert torch.allclose(found.model(ids).logits, expected, atol=1e-6)


def test_what_is_pruned_can_be_pruned_again():
    once = fitted(loaded(), loaded().tokenizer.encode("tan tan nora"), "it")
    twice = fitted(once, once.tokenizer.encode("tan"), "it")
    at_once = fitted(loaded(), loaded().tokenizer.encode("tan"), "it")
    assert twice.tokenizer.to_json() == at_once.tokenizer.to_json()
    for name, value in at_once.model.state_dict().items():
        assert torch.equal(twice.model.state_dict()[name], value), name


def test_a_model_without_a_table_of_tokens_is_refused():
    assert vocabulary_tensors(model_zoo.build("transformer")) == ["embedding.weight"]
    assert vocabulary_tensors(model_zoo.build("crystal_faithful")) == [
        "embedding.weight", "head.weight", "head.bias",
    ]  # fmt: skip
    other = model_zoo.build("transformer")
    other.vocab_size += 1
    with pytest.raises(UserError, match="take prune=null"):
        vocabulary_tensors(other)
