import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.crystalline.export.runtime.driving import difference, small_model
from tests.crystalline.export.runtime.old_files import MODES, write_v1, write_v2

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize("mixed8", [False, True])
@pytest.mark.parametrize("attention", ["none", "first"])
def test_version_2_is_computed_properly(plain, file, attention, mixed8):
    model = small_model(mode="faithful", attention=attention)
    write_v2(file, model, mixed8)
    assert difference(plain, file, model) <= 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_version_1_is_computed_properly_from_the_scales_that_it_has(plain, file, mode):
    model = small_model(mode="faithful", attention="none")
    frozen = np.arange(13) % 3 == 1  # an odd number of indices, so that what follows is misaligned
    frozen[1] = False
    write_v1(file, model, mode, frozen)
    assert difference(plain, file, model) <= 1e-4


@torch.no_grad()
def published(model, window):
    """What is added is added to the norm's output, and the GELU is approximated by tanh."""
    block = model.blocks[0]
    h = model.embedding(window) + model.position_embedding(torch.arange(window.shape[1]))
    if block.attention is not None:
        h = block.attention_norm(h)
        h = h + block.attention(h)
    h = block.field_norm(h)
    h = h + block.field(h)[0]
    h = block.mlp_norm(h)
    h = h + block.mlp.down(F.gelu(block.mlp.up(h), approximate="tanh"))
    return model.head(h)[0, -1].double().numpy()


@pytest.mark.parametrize("attention", ["none", "first"])
def test_the_published_runtime_of_version_2_can_be_repeated(plain, file, attention):
    model = small_model(mode="faithful", attention=attention)
    write_v2(file, model)
    drawn, logits = plain.steps(file, [3, 5], 12, "--published")
    text = [3, 5, *drawn]
    expected = [published(model, torch.tensor([text[max(0, n - 8) : n]])) for n in range(2, 14)]
    assert np.abs(logits - np.array(expected)).max() <= 1e-4
    assert np.abs(logits - plain.steps(file, [3, 5], 12)[1]).max() > 0.01


def test_the_published_runtime_of_version_1_erred_in_the_gelu_alone(plain, file):
    model = small_model(mode="faithful", attention="none")
    write_v1(file, model, "float32", np.ones(13, bool))
    assert 1e-6 < difference(plain, file, model, "--published") < 0.01


def test_old_files_hold_no_tokenizer(plain, file):
    write_v2(file, small_model(mode="faithful", attention="none"))
    assert plain.error("-m", file, "-p", "text").endswith(
        "holds no tokenizer; give ids in place of text"
    )
