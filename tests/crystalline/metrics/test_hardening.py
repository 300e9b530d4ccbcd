"""What chance does to the loss, a layer at a time."""

import pytest
import torch

from crystalline.interpret.sites import layer_of
from crystalline.metrics.hardening import hardening
from tests import model_zoo

SURE, WARM = -30.0, 0.0  # of rho: temperatures near 0 and 0.7


def build(mode: str = "crystalline", rho: tuple[float, ...] = (WARM, WARM), **options):
    """Two layers whose MLPs write codes that matter to the loss."""
    torch.manual_seed(0)
    model = model_zoo.crystalline(mode, places=("mlp",), **options)
    torch.nn.init.normal_(model.embedding.weight, std=0.5)
    for name, part in model._bottlenecks().items():
        if part.gain is not None:
            torch.nn.init.ones_(part.gain)
        if mode == "crystalline":
            part.temperature.minimum = 1e-7
            torch.nn.init.constant_(part.temperature.rho, rho[layer_of(name) or 0])
    return model


def batches(number: int = 2):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, model_zoo.VOCAB, (number, 2, 13), generator=generator)
    targets = tokens.roll(-1, 2)
    targets[..., -1] = -100
    return list(zip(tokens, targets, strict=True))


def loss(model) -> float:
    ((tokens, targets),) = batches(1)
    with torch.no_grad():
        return float(model(tokens).cross_entropy(targets).loss)


@pytest.mark.parametrize(
    ("mode", "options"),
    [("crystalline", {}), ("crystalline", {"estimator": "soft"}), ("source", {"temp_init": 2.0}),
     ("crystalline", {"budget": "batch"})],
)  # fmt: skip
def test_it_is_the_loss_of_evaluation_less_that_of_training(mode, options):
    model = build(mode, layers=[1], **options)
    loss(model.train())
    for book in model.codebooks().values():
        book.end_round(torch.tensor(False))
    expected = loss(model.eval())
    model.train()
    for seed in (0, 1):  # the site draws once a pass, after it was seeded with 0 and with 1
        torch.manual_seed(seed)
        expected -= loss(model) / 2
    found = hardening(model, batches(1), seeds=2)
    assert abs(expected) > 1e-3
    assert set(found) == {"hardening/layer_1", "hardening/all"}
    assert list(found.values()) == pytest.approx([expected] * 2, rel=1e-5)
    assert model.training


@pytest.mark.parametrize("sure", [0, 1])
def test_a_layer_whose_choices_are_sure_has_none(sure):
    rho = [WARM, WARM]
    rho[sure] = SURE
    found = hardening(build(rho=tuple(rho)), batches(), seeds=2)
    assert found[f"hardening/layer_{sure}"] == pytest.approx(0, abs=1e-6)
    assert abs(found[f"hardening/layer_{1 - sure}"]) > 1e-3
    assert found["hardening/all"] == pytest.approx(found[f"hardening/layer_{1 - sure}"], abs=1e-6)


def test_it_leaves_no_trace_and_repeats_itself():
    model = build()
    before = {name: tensor.clone() for name, tensor in model.named_buffers() if "seen" not in name}
    first = hardening(model, batches(), seeds=2)
    assert first == hardening(model, batches(), seeds=2)
    for name, tensor in before.items():
        assert torch.equal(model.get_buffer(name), tensor), name
    assert not any(book.sampled for book in model.codebooks().values())
    assert not any(book._forward_pre_hooks for book in model.codebooks().values())


@pytest.mark.parametrize("name", ["transformer", "ziggurat_2", "codebook_features",
                                  "crystalline_input_ste"])  # fmt: skip
def test_models_that_choose_without_chance_have_none(name):
    assert hardening(model_zoo.build(name), batches(), seeds=1) == {}
