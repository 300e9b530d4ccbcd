import numpy as np
import pytest
import torch

from crystalline.sampling import next_token_probabilities
from tests.crystalline.export.runtime.driving import small_model
from tests.crystalline.export.runtime.writing import write_model
from tests.selection import every_third

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def biased(tmp_path_factory):
    """A model that has the same logits whatever it reads: its head's bias."""
    path = tmp_path_factory.mktemp("biased") / "model.crystal"
    model = small_model(mode="faithful", attention="none")
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(3 * torch.randn(37, generator=torch.Generator().manual_seed(0)))
    write_model(path, model)
    return path, model.head.bias.detach()[None]


def draws(program, path, count, *options):
    said = program.output("-m", path, "--ids", "-p", 1, "-n", count, "--no-stop", *options)
    return [int(token) for token in said.split()]


@pytest.mark.parametrize(("temperature", "top_k", "top_p", "min_p"), every_third([
    (1.0, None, 1.0, 0.0),
    (0.5, None, 1.0, 0.0),
    (1.5, 7, 1.0, 0.0),
    (1.0, None, 0.8, 0.0),
    (2.0, 12, 0.7, 0.0),
    (1.5, None, 1.0, 0.1),
    (1.3, 20, 0.95, 0.05),
]))  # fmt: skip
def test_tokens_are_drawn_from_the_distribution_of_the_options(
    plain, biased, temperature, top_k, top_p, min_p
):
    path, logits = biased
    expected = next_token_probabilities(logits, temperature, top_k, top_p)[0].double().numpy()
    expected = np.where(expected >= min_p * expected.max(), expected, 0)
    expected /= expected.sum()
    options = ["-t", temperature, "--top-p", top_p, "--min-p", min_p, "--top-k", top_k or 0]
    found = np.bincount(draws(plain, path, 20_000, *options), minlength=37) / 20_000
    assert not found[expected == 0].any()
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected / 20_000) + 1e-4).all()


def test_a_seed_repeats_a_text_and_another_one_does_not(plain, biased):
    path, _ = biased
    first = draws(plain, path, 50, "--seed", 7)
    assert draws(plain, path, 50, "--seed", 7) == first
    assert draws(plain, path, 50, "--seed", 8) != first


def test_temperature_0_and_one_token_take_the_likeliest(plain, biased):
    path, logits = biased
    best = int(logits.argmax())
    assert draws(plain, path, 5, "-t", 0) == [best] * 5
    assert draws(plain, path, 5, "-t", 3, "--top-k", 1) == [best] * 5
    assert draws(plain, path, 5, "-t", "1e-9") == [best] * 5


def test_text_ends_at_the_token_between_documents(plain, file):
    model = small_model(mode="faithful", attention="none")
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.arange(37.0))
    write_model(file, model, extra={"tokenizer.eot_id": 36})
    assert plain.output("-m", file, "--ids", "-n", 9, "-t", 0).split() == []
    assert plain.output("-m", file, "--ids", "-n", 3, "-t", 0, "--no-stop").split() == [b"36"] * 3
