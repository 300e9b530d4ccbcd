"""What is special about v1."""

import pytest
import torch

from crystalline.models.vocab_space.blocks import rms
from crystalline.models.vocab_space.v1_attention import GroupedQueryAttention
from tests.crystalline.models.vocab_space.test_variants import make, shaken


def test_attention_is_what_its_formula_says():
    torch.manual_seed(0)
    block = shaken(GroupedQueryAttention(24, 10, 4, 2, 100.0, 1.5)).double()
    x = torch.randn(1, 5, 24, dtype=torch.float64)
    q, k, v = (map(x)[0].unflatten(-1, (-1, 6)) for map in (block.query, block.key, block.value))

    def turned(vector, position):
        vector = rms(vector)
        pairs = torch.complex(vector[:3], vector[3:])  # first half with second half
        rates = 100.0 ** (-torch.arange(3, dtype=torch.float64) / 3)
        pairs = pairs * torch.exp(1j * position * rates)
        return torch.cat([pairs.real, pairs.imag])

    read = torch.zeros(5, 4, 6, dtype=torch.float64)
    for head in range(4):
        gain, shared = block.query_gain[head], head // 2
        for t in range(5):
            scores = [
                gain * turned(q[t, head], t) @ turned(k[s, shared], s) / 6**0.5
                for s in range(t + 1)
            ]
            read[t, head] = torch.stack(scores).softmax(0) @ v[: t + 1, shared]
    expected = read.flatten(1) @ block.out.weight.T
    torch.testing.assert_close(block(x)[0], expected, atol=1e-5, rtol=1e-5)


def test_steps_share_one_attention_that_is_saved_once():
    model = make("v1_attention")
    blocks = [step.parts[0].block.owned[0] for step in model.steps]
    assert all(block is model.attention for block in blocks)
    saved = [name for name in model.state_dict() if "query" in name or name.endswith("out.weight")]
    names = ["attention.query_gain", "attention.query.weight", "attention.out.weight"]
    assert sorted(saved) == sorted(names)
    caches = model.init_cache(2).passes
    assert len({id(cache[0]) for cache in caches}) == len(caches)  # each step has its own past


def test_positions_are_alone_until_the_output_map_leaves_zero():
    model = make("v1_attention", mode="faithful", query_gain=2.5).eval()
    assert (model.attention.query_gain == 2.5).all()
    tokens = torch.randint(32, (1, 12))
    one_by_one = model(tokens.T).logits[:, 0]
    torch.testing.assert_close(model(tokens).logits[0], one_by_one, atol=0.02, rtol=0.01)  # bf16
    assert (model(tokens).logits[0].argmax(-1) == tokens[0]).all()  # it repeats what it has read


def test_maps_of_a_head_are_its_scores_and_what_it_writes():
    torch.manual_seed(0)
    block = shaken(GroupedQueryAttention(24, 10, 4, 2, 100.0, 1.5))
    maps = block.word_maps(24)
    words = torch.eye(24)
    alone = block(words[:, None])[:, 0]  # each word attends to itself alone
    written = sum(maps[f"head.{head}.write"].rows(0, 24) for head in range(4))
    torch.testing.assert_close(written, alone)
    q = rms(block.query.weight.T[:, 18:])  # head 3
    k = rms(block.key.weight.T[:, 6:])
    look = maps["head.3.look"].rows(0, 24)
    torch.testing.assert_close(look, block.query_gain[3] * q @ k.T / 6**0.5)


@pytest.mark.parametrize(
    ("heads", "message"), [((5, 1), "twice model.num_heads"), ((4, 3), "model.num_kv_heads must")]
)
def test_heads_that_do_not_fit_are_refused(heads, message):
    with pytest.raises(ValueError, match=message):
        GroupedQueryAttention(32, 10, *heads, 100.0, 1.5)
