"""Training in stages: what is frozen stays as it was, to the last bit of the last buffer."""

from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from crystalline.models.abstractinator import (
    AttentionForm,
    EntropyLanguageModel,
    EntropyOptions,
    TopOptions,
    TopOverLevels,
)
from crystalline.models.abstractinator.symbols import Sight, read_tokens
from crystalline.models.transformer import Transformer
from crystalline.quantizers.calibration import init_codebooks
from tests.crystalline.models.abstractinator.building import CONTEXT, VOCAB, book, pyramid, shaken

TOKENS = torch.randint(0, VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(1))
ENTROPY = EntropyOptions(d_model=8, num_layers=1, num_heads=2, window=6)
SITES = ["levels.0.compressor.quantizer", "levels.1.compressor.quantizer"]


def entropy_model(**options) -> EntropyLanguageModel:
    """Of the sizes that `pyramid` asks for."""
    torch.manual_seed(2)
    parts = {"entropy": ENTROPY, "attention": AttentionForm(), "document_end": 0} | options
    return EntropyLanguageModel(VOCAB, CONTEXT, **parts)


def over(base, **options) -> TopOverLevels:
    torch.manual_seed(5)
    sizes = TopOptions(d_model=20, num_layers=2, num_heads=2)
    parts = {"context_length": CONTEXT, "top": sizes, "attention": AttentionForm()} | options
    return TopOverLevels(VOCAB, base=base, **parts)


def everything(module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, those that no checkpoint holds included."""
    return {
        name: tensor.detach().clone()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }


def learn(model, rounds: int = 3) -> list[dict[str, torch.Tensor]]:
    """Rounds as the suite trains; the losses of each."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for number in range(rounds):
        model.train()
        model.begin_round(number / rounds)
        output = model(TOKENS[:, :-1])
        optimizer.zero_grad()
        loss = cross_entropy(output.logits.mT, TOKENS[:, 1:])
        output.total(loss, model.loss_weights(0.0)).backward()
        optimizer.step()
        model.end_round(torch.tensor(False))
        losses.append(output.losses)
    return losses


@pytest.mark.parametrize("mode", ["discrete", "latent_conditioning"])
def test_nothing_of_frozen_levels_moves_and_all_of_the_top_learns(mode):
    moving = {"mean_length": 3.0, "delta_bits": 0.01, "max_length": 5}
    quantizer = partial(book, update="ema", warmup=0.5, standardise=True)
    base = shaken(mode=mode, document_end=0, segmentation=moving, quantizer=quantizer)
    learn(base, rounds=1)  # books have counts and statistics
    model = over(base)
    frozen, top = everything(model.levels), everything(model.top)
    losses = learn(model)
    init_codebooks(model, TOKENS, seed=0)
    assert [list(each) for each in losses] == [["top_lm"]] * 3
    assert not any(part.training for level in model.levels for part in level.modules())
    assert model.top.training
    after = everything(model.levels)
    assert [name for name in frozen if not torch.equal(after[name], frozen[name])] == []
    learned = everything(model.top)
    same = {name for name in top if torch.equal(learned[name], top[name])}
    assert same == {name for name in top if name.endswith((".cos", ".sin"))}


def test_codes_of_frozen_levels_are_told_and_edited_but_not_maintained():
    base = shaken(mode="discrete", document_end=0)
    model = over(base).eval()
    expected = base(TOKENS, codes=True).codes
    found = model(TOKENS, codes=True)
    assert list(found.codes) == SITES
    assert all(torch.equal(found.codes[s].indices, expected[s].indices) for s in SITES)
    edited = model(TOKENS, edits={SITES[0]: lambda choice: (choice.indices + 1) % 16})
    assert not torch.equal(edited.logits, found.logits)
    assert model.codebooks() == {}


def test_levels_are_taken_over_whole_or_not_at_all():
    base = shaken(mode="discrete")
    model = over(pyramid(mode="discrete"))
    model.load_base("base", base)
    held, given = everything(model.levels), everything(base.levels)
    assert all(torch.equal(held[name], given[name]) for name in given)
    state = base.levels.state_dict()
    for name in state:
        fewer = {key: value for key, value in state.items() if key != name}
        for wrong, said in ((fewer, name), ({**state, f"{name}x": state[name]}, f"{name}x")):
            base.levels.state_dict = lambda wrong=wrong: wrong
            with pytest.raises(RuntimeError, match=f'"{said}"'):
                model.load_base("base", base)


def test_a_frozen_entropy_model_cuts_and_learns_nothing():
    trained = entropy_model()
    model = pyramid(document_end=0, entropy_base=entropy_model())
    model.load_base("entropy_base", trained)
    part = model.levels[0].compressor.entropy_model
    assert part is not None
    before = everything(trained.entropy_model)
    losses = learn(model)
    assert not any(each.training for each in part.modules())
    assert all(torch.equal(everything(part)[name], value) for name, value in before.items())
    assert all("entropy_model" in each for each in losses)  # of level 1, which has its own
    alone = learn(pyramid(num_levels=1, document_end=0, entropy_base=trained))
    assert not any("entropy_model" in each for each in alone)


def test_the_entropy_model_alone_is_scored_as_it_is_inside():
    model = entropy_model()
    symbols = read_tokens(TOKENS, 0)
    part = model.entropy_model
    h = part(symbols, Sight(symbols, True, None))
    scores = model(TOKENS).logits
    loss = cross_entropy(scores[:, :-1].mT, TOKENS[:, 1:])
    torch.testing.assert_close(loss, part.loss(h, symbols, None))
    chances = scores.softmax(-1)
    bits = -(chances * chances.log2()).sum(-1)
    torch.testing.assert_close(bits, part.bits(h, None))


CODES = {"mode": "discrete"}


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: over(entropy_model()), "model.base must be .* not of EntropyLanguageModel"),
        (lambda: over(pyramid(), context_length=99), "model.context_length=99: .* reads 32 tokens"),
        (lambda: over(pyramid(**CODES), lambda_top_lm=0.0), "model.lambda_top_lm must be above 0"),
        (
            lambda: pyramid(entropy_base=Transformer(VOCAB, CONTEXT, 8, 1, 2)),
            "model.entropy_base must be .* not of Transformer",
        ),
        (
            lambda: pyramid(entropy_base=entropy_model(), document_end=0, entropy={"window": 7}),
            "model.entropy.window=7: model.entropy_base has entropy.window=6",
        ),
        (
            lambda: pyramid(entropy_base=entropy_model()),
            "model.document_end=None: model.entropy_base has document_end=0",
        ),
        (
            lambda: pyramid(entropy_base=entropy_model(), document_end=0, context_length=40),
            "model.context_length=40: model.entropy_base reads 32 tokens",
        ),
        (
            lambda: pyramid(entropy_base=entropy_model(), segmentation={"rule": "fixed"}),
            "model.entropy_base must be null for model.segmentation.rule=fixed",
        ),
        (
            lambda: entropy_model(entropy=EntropyOptions(head="gaussian")),
            "model.entropy.head must be categorical",
        ),
    ],
)
def test_bases_that_do_not_fit_are_named(build, said):
    with pytest.raises(ValueError, match=said):
        build()


def test_a_top_over_continuous_levels_learns_by_regression():
    base = pyramid(quantize=False, entropy={"head": "gaussian"})
    losses = learn(over(base, lambda_top_lm=0.0, lambda_top_regression=1.0), 5)
    assert list(losses[0]) == ["top_regression"]
    assert losses[-1]["top_regression"] < losses[0]["top_regression"]
