"""What a model loses before it has learned, at full size: a head that copies shows at once."""

import math

import pytest
import torch

from tests.crystalline.models.vocab_space.test_variants import VARIANTS, make
from tests.selection import often

WORDS = 1024
REPAIRED = {  # what they write at first are scores of words that stand here or just before
    "v2_conv": 12.4, "v14_adaptive": 12.5,
}  # fmt: skip
FAITHFUL = {  # their first updates are larger than the word's own coordinate; v13 has none
    "v3_assoc": 7.8, "v5_gauss": 9.5, "v7_lgp": 7.5, "v8_graph": 13.4, "v11_brainwave": 12.9,
    "v13_embed": 7.5,
}  # fmt: skip


def first_loss(variant, mode):
    """Nats on 64 words drawn evenly."""
    model = make(variant, WORDS, 128, small=False, mode=mode).eval()
    torch.manual_seed(1)
    tokens = torch.randint(WORDS, (1, 65))
    with torch.no_grad():
        return model(tokens[:, :-1]).cross_entropy(tokens[:, 1:]).loss.item()


@pytest.mark.parametrize(
    "variant", often(VARIANTS, "v2_conv", "v8_graph", "v9_meta", "v14_adaptive")
)
def test_repaired_models_start_near_an_even_choice(variant):
    loss = first_loss(variant, "repaired")
    if variant in REPAIRED:
        assert loss == pytest.approx(REPAIRED[variant], abs=0.5)
    else:  # scores of size 1 at random cost half a nat
        assert math.log(WORDS) - 0.1 < loss < math.log(WORDS) + 1.4


@pytest.mark.parametrize("variant", often(VARIANTS, "v8_graph", "v9_meta"))
def test_published_models_start_as_copies_of_the_current_word(variant):
    loss = first_loss(variant, "faithful")
    if variant in FAITHFUL:
        assert loss == pytest.approx(FAITHFUL[variant], abs=0.5)
    else:  # 30 tanh(32 / 30) = 23.7
        assert 22.5 < loss < 24
