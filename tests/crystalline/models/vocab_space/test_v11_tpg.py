"""What is special about v11b."""

import pytest
import torch
from torch.nn.functional import gelu, silu

from crystalline.models.vocab_space.op_bank import Selector
from crystalline.models.vocab_space.v11_tpg import Halting, RoutedMLP, Timescales, Tpg

TOKENS = torch.randint(16, (2, 9), generator=torch.Generator().manual_seed(0))


def build(**options):
    torch.manual_seed(0)
    model = Tpg(16, 40, num_steps=3, d_state=4, d_mlp=5, state_dtype="fp32", **options)
    with torch.no_grad():
        for parameter in model.steps.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def test_each_position_mixes_what_three_memories_hold():
    torch.manual_seed(0)
    part = Timescales(7, 2, "none")
    x = torch.randn(1, 5, 7)
    q, k, u = part.queries(x)[0], part.keys(x)[0], part.values(x)[0]
    shares = (x @ part.mixture.weight.T).softmax(-1)[0]
    read = torch.zeros(5, 2)
    for scale, logit in enumerate((0.0, 3.0, 5.0)):
        decay, mine = torch.tensor(logit).sigmoid(), slice(2 * scale, 2 * scale + 2)
        for t in range(5):
            for s in range(t):
                weight = shares[t, scale] * decay ** (t - s - 1) * (q[t] @ k[s, mine])
                read[t] += weight * u[s, mine]
    torch.testing.assert_close(part(x)[0], 0.1 * read @ part.output.weight.T)


def test_memories_tell_what_a_word_remembered_pushes():
    torch.manual_seed(0)
    part = Timescales(7, 2, "none")
    maps = part.word_maps(7)
    values, words = part.values.weight[4:], part.output.weight  # of the last timescale
    torch.testing.assert_close(maps["head.2.write"].rows(0, 7), 0.1 * values.T @ words.T)
    assert len(maps) == 6


def test_each_position_takes_one_activation():
    torch.manual_seed(0)
    part = RoutedMLP(6, 4, Selector("gumbel_hard", "no")).eval()
    with torch.no_grad():
        part.route.weight.zero_()[:, :4] = torch.eye(4)  # the largest of four coordinates decides
    x = torch.eye(6)[None, :4]
    h = part.down(x)[0]
    hidden = torch.stack([gelu(h[0]), h[1].relu(), silu(h[2]), h[3].tanh()])
    torch.testing.assert_close(part(x)[0], 0.1 * hidden @ part.up.weight.T)
    listed = part.listing(x)["activation"]
    assert listed.names == ("gelu", "relu", "silu", "tanh")
    assert torch.equal(listed.shares[0], torch.eye(4))


def test_the_mean_state_weighs_by_where_a_position_halts():
    torch.manual_seed(0)
    halting = Halting(4, 0.5)
    states = [torch.randn(1, 2, 4) for _ in range(3)]
    p = [torch.sigmoid(x @ halting.map.weight.T - 2) for x in states]
    left = [1 - p[0], (1 - p[0]) * (1 - p[1]), (1 - p[0]) * (1 - p[1]) * (1 - p[2])]
    torch.testing.assert_close(halting.left(states), torch.stack(left))
    mean = p[0] * states[0] + p[1] * left[0] * states[1] + left[1] * states[2]
    torch.testing.assert_close(halting.mean_state(states), mean)


def test_pondering_costs_in_training_alone():
    model = build(lambda_ponder=0.3)
    with torch.no_grad():
        model.halting.map.weight.zero_()
    chance = torch.tensor(-2.0).sigmoid()
    left = (1 - chance) + (1 - chance) ** 2 + (1 - chance) ** 3
    torch.testing.assert_close(model.train()(TOKENS).losses, {"ponder": left})
    assert model.loss_weights(0.5) == {"ponder": 0.3}
    assert model.eval()(TOKENS).losses == {}


def test_in_evaluation_a_position_keeps_the_state_it_halted_with():
    model = build(mode="faithful", sampled_evaluation="no").eval()
    word = TOKENS[0, 3]
    with torch.no_grad():
        model.halting.map.weight.zero_()[0, word] = 2
    halts = word == TOKENS  # 2 * 4 - 2 is above 0; others' coordinate is below 1
    assert not halts.all()
    states = []

    def listen(part, inputs, output):
        states.append(output[0])

    for words in model.words:
        words.register_forward_hook(listen)
    model(TOKENS, codes=True)
    for state in states[1:]:
        assert torch.equal(state[halts], states[0][halts])
        assert not torch.isclose(state[~halts], states[0][~halts]).all(-1).any()


def test_repaired_evaluation_reads_what_training_does():
    model = build(selection="soft").train()
    assert torch.equal(model(TOKENS).logits, model.eval()(TOKENS).logits)
    exits = build(selection="soft", evaluation_state="exit").eval()
    assert not torch.allclose(exits(TOKENS).logits, model(TOKENS).logits, atol=1e-2)


@pytest.mark.parametrize(("mode", "noisy"), [("faithful", True), ("repaired", False)])
def test_evaluation_draws_noise_as_published_and_not_when_repaired(mode, noisy):
    model = build(mode=mode).eval()
    assert torch.equal(model(TOKENS).logits, model(TOKENS).logits) != noisy


def test_one_step_is_too_few():
    with pytest.raises(ValueError, match=r"model\.num_steps must be at least 2 to halt, got 1"):
        Tpg(16, 40, num_steps=1)
