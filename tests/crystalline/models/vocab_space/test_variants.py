"""What holds for every variant, in both modes."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

CONF = Path(__file__).parents[4] / "conf" / "model" / "vocab"
VARIANTS = sorted(path.stem for path in CONF.glob("v*.yaml"))
PARAMETERS = {  # as published, V = 1,024 (spec 10)
    "v1_attention": 3_359_761,
    "v2_conv": 353_289,
    "v3_assoc": 328_745,
    "v4_golf": 101_743,
    "v5_gauss": 328_745,
    "v6_wave": 824_417,
    "v7_lgp": 328_809,
    "v8_graph": 163_881,
    "v9_meta": 4_195_369,
    "v10_policy": 1_386_585,
    "v11_brainwave": 3_425_329,
    "v11_tpg": 6_350_906,
    "v12_sparse": 4_198_433,
    "v13_embed": 4_460_577,
    "v14_adaptive": 2_542_633,
    "v15_predictive": 4_198_433,
    "v16_columnar": 6_305_397,
}
SMALL = {  # of those that a variant has
    "num_steps": 3, "channels": 8, "harmonics": 6, "num_heads": 4, "num_kv_heads": 2, "d_state": 6,
    "d_mlp": 10, "slice_width": 12, "top_states": 16, "rank": 3, "d_embed": 6, "unique_steps": 2,
    "kernel": 3, "bands": [1, 2, 3], "d_gate": 5, "num_columns": 2,
}  # fmt: skip
QUIET = {  # where published evaluation draws noise, anew in every call: calls agree without it
    ("v11_tpg", "faithful"): {"sampled_evaluation": "no"},
}
EACH = pytest.mark.parametrize("variant", VARIANTS)
MODES = pytest.mark.parametrize("mode", ["faithful", "repaired"])


def make(variant, vocab_size=32, context_length=40, small=True, **options):
    config = OmegaConf.merge(
        OmegaConf.load(CONF / "_vocab.yaml"), OmegaConf.load(CONF / f"{variant}.yaml")
    )
    config.pop("defaults")
    if small:
        config.update({name: value for name, value in SMALL.items() if name in config})
    config.update({"vocab_size": vocab_size, "context_length": context_length, **options})
    torch.manual_seed(0)
    return instantiate(config, _convert_="all")


def comparable(variant, mode):
    """A model whose calls can be compared to the last digits."""
    return make(variant, mode=mode, state_dtype="fp32", **QUIET.get((variant, mode), {}))


def shaken(model, std=0.2):
    """A model in which nothing is zero that starts as zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return model


@EACH
def test_as_many_parameters_as_published(variant):
    model = make(variant, 1024, 1024, small=False, mode="faithful")
    assert model.count_parameters()["parameters"] == PARAMETERS[variant]


@EACH
@MODES
@pytest.mark.parametrize("training", [True, False])
def test_no_position_sees_a_later_one(variant, mode, training):
    model = shaken(make(variant, mode=mode)).train(training)
    torch.manual_seed(1)
    tokens = torch.randint(32, (2, 40))
    changed = tokens.clone()
    changed[:, 23] = (changed[:, 23] + 5) % 32

    def logits(ids):
        torch.manual_seed(7)  # of Gumbel noise
        return model(ids).logits

    before, after = logits(tokens), logits(changed)
    assert torch.equal(before[:, :23], after[:, :23])
    assert not torch.equal(before[:, 23:], after[:, 23:])


@EACH
@MODES
def test_a_prefix_alone_says_the_same(variant, mode):
    model = shaken(comparable(variant, mode)).eval()
    tokens = torch.randint(32, (2, 40))
    whole = model(tokens).logits
    for length in (1, 2, 17):
        torch.testing.assert_close(
            model(tokens[:, :length]).logits, whole[:, :length], atol=2e-4, rtol=1e-4
        )


@EACH
@MODES
def test_generation_step_by_step_equals_one_pass(variant, mode):
    model = shaken(comparable(variant, mode), 0.05).eval()
    tokens = torch.randint(32, (2, 12))
    cache = model.init_cache(2)
    parts = [model.step(tokens[:, :5], cache)]
    parts += [model.step(tokens[:, t : t + 1], cache) for t in range(5, 12)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens).logits, atol=2e-4, rtol=1e-4)


@EACH
@MODES
def test_every_parameter_gets_a_gradient_within_three_rounds(variant, mode):
    model = make(variant, mode=mode).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    reached = set(model.parameters_without_gradient())
    weights = model.loss_weights(0.5)
    for _ in range(3):
        tokens = torch.randint(32, (4, 20))
        output = model(tokens[:, :-1])
        loss = output.cross_entropy(tokens[:, 1:]).loss
        loss = loss + sum(weights[name] * value for name, value in output.losses.items())
        optimizer.zero_grad()
        loss.backward()
        named = model.named_parameters()
        reached |= {n for n, p in named if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
    assert set(dict(model.named_parameters())) <= reached


@EACH
@pytest.mark.usefixtures("unchecked")
def test_a_repaired_model_overfits_one_batch(variant):
    model = make(variant, mode="repaired").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tokens = torch.randint(32, (2, 12))
    for _ in range(120):
        loss = model(tokens[:, :-1]).cross_entropy(tokens[:, 1:]).loss
        if loss < 1.5:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1.5  # ln 32 = 3.47 without learning


@EACH
def test_losses_beside_the_main_one_are_of_training_alone(variant):
    model, tokens = make(variant), torch.randint(32, (2, 5))
    assert set(model.train()(tokens).losses) == set(model.loss_weights(0.5))
    assert model.eval()(tokens).losses == {}


@EACH
@MODES
def test_words_of_every_state_are_codes_and_edits_reach_the_output(variant, mode):
    model = shaken(comparable(variant, mode), 0.05).eval()
    tokens = torch.randint(32, (2, 12))
    output = model(tokens, codes=True)
    assert list(output.codes) == [f"words.{i}" for i in range(len(model.words))]
    for codes in output.codes.values():
        assert codes.indices.shape == (2, 12, 8)
        assert codes.codebook_size == 32
    site = "words.0"

    def unchanged(choice):
        return choice.indices

    def ban_first(choice):
        banned = torch.zeros(1, 32, dtype=torch.bool)
        banned[0, choice.indices[0, 3, 0]] = True
        return choice.without(banned)

    torch.testing.assert_close(
        model(tokens, edits={site: unchanged}).logits, output.logits, atol=1e-5, rtol=1e-5
    )
    edited = model(tokens, codes=True, edits={site: ban_first})
    assert output.codes[site].indices[0, 3, 0] not in edited.codes[site].indices[0, 3]
    assert not torch.allclose(edited.logits[0, 3], output.logits[0, 3])
