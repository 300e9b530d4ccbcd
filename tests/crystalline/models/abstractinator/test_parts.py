"""The parts by themselves: entropy, pooling, heads."""

import math
from dataclasses import replace

import pytest
import torch

from crystalline.layers.attention_form import AttentionForm
from crystalline.models.abstractinator.code_head import CodeHead, entropy, mean_where
from crystalline.models.abstractinator.entropy_model import EntropyModel
from crystalline.models.abstractinator.options import EntropyOptions
from crystalline.models.abstractinator.pooling import LearnedQueryAttention
from crystalline.models.abstractinator.symbols import Sight, Symbols

WIDTH, LENGTH = 8, 12


def symbols(tokens: torch.Tensor) -> Symbols:
    at = torch.arange(tokens.shape[1]).expand_as(tokens)
    real, no = torch.ones_like(tokens, dtype=torch.bool), torch.zeros_like(tokens)
    return Symbols(at, real, no.bool(), no, at, tokens)


def model(head: str, vocab_size: int | None = 20) -> EntropyModel:
    torch.manual_seed(0)
    options = EntropyOptions(d_model=WIDTH, num_layers=1, num_heads=2, window=4, head=head)
    return EntropyModel(options, vocab_size, 6, (1, 7, 5), LENGTH, AttentionForm(), 0.0)


def test_the_entropy_of_scores_is_in_nats():
    assert entropy(torch.zeros(3, 8)).tolist() == pytest.approx([math.log(8)] * 3)
    sure = torch.zeros(1, 8)
    sure[0, 2] = 100.0
    assert entropy(sure).item() == pytest.approx(0.0, abs=1e-6)


def test_bits_are_those_of_the_next_symbol_and_the_loss_is_its_cost():
    part, tokens = model("categorical"), torch.randint(0, 20, (2, LENGTH))
    seen = symbols(tokens)
    h = part(seen, Sight(seen, False, None))
    chances = (h @ part.input.embedding.weight.T).softmax(-1)
    bits = -(chances * chances.log2()).sum(-1)
    torch.testing.assert_close(part.bits(h, None), bits)
    cost = -chances[:, :-1].gather(-1, tokens[:, 1:, None]).log().mean()
    torch.testing.assert_close(part.loss(h, seen, None), cost)


def test_a_gaussian_knows_its_doubt_before_the_symbol_and_its_targets_stand_still():
    part, tokens = model("gaussian"), torch.randint(0, 20, (2, LENGTH))
    seen = symbols(tokens)
    h = part(seen, Sight(seen, False, None))
    mean, log_variance = part.gaussian(h).chunk(2, -1)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    torch.testing.assert_close(part.bits(h, None), normal.entropy().mean(-1) / math.log(2))
    cost = -normal.log_prob(part.targets[torch.roll(tokens, -1, 1)])[:, :-1].mean()
    torch.testing.assert_close(part.loss(h, seen, None), cost)
    assert not part.targets.requires_grad


def test_vectors_of_a_level_below_are_foretold_but_not_moved():
    part = model("gaussian", None)
    vectors = torch.randn(2, LENGTH, 6, requires_grad=True)
    seen = replace(symbols(torch.zeros(2, LENGTH).long()), tokens=None, vectors=vectors)
    h = part(seen, Sight(seen, False, None))
    part.loss(h, seen, None).backward()
    assert vectors.grad is None
    assert part.bits(h, None).shape == (2, LENGTH)


def test_a_code_head_asks_level_after_level():
    torch.manual_seed(0)
    head, books = CodeHead(WIDTH, (3, 7, 5)), torch.randn(3, 7, 5, requires_grad=True)
    h, codes = torch.randn(2, 4, WIDTH), torch.randint(0, 7, (2, 4, 3))
    real = torch.tensor([[True] * 4, [True, True, False, False]])
    start, expected = head.norm(h), torch.zeros(2, 4)
    for level in range(3):
        logs = head.names[level](start).log_softmax(-1)
        expected -= logs.gather(-1, codes[..., level : level + 1])[..., 0]
        start = start + head.given(books[level][codes[..., level]])
    nats = head.nats(h, books, codes)
    torch.testing.assert_close(nats, expected)
    torch.testing.assert_close(mean_where(nats, real), expected[real].mean())
    assert mean_where(nats, real & False) == 0
    nats.sum().backward()
    assert books.grad is None


def test_a_segment_is_pooled_from_its_own_positions_alone():
    torch.manual_seed(0)
    pool = LearnedQueryAttention(WIDTH, 2, 2, "sdpa")
    hidden = torch.randn(1, 6, WIDTH)
    segment, wanted = torch.tensor([[0, 0, 1, 1, 1, 2]]), torch.tensor([[0, 1, 2, 3]])
    vectors = pool(hidden, segment, wanted)
    assert torch.equal(vectors[0, 3], torch.zeros(WIDTH))  # there is no such segment
    other = hidden.clone()
    other[0, 2:5] = other[0, [4, 2, 3]]  # the order within a segment is not its business
    other[0, 5] = torch.randn(WIDTH)
    changed = pool(other, segment, wanted)
    torch.testing.assert_close(changed[0, :2], vectors[0, :2])
    assert not torch.allclose(changed[0, 2], vectors[0, 2])
    vectors.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in pool.parameters())


def test_pooling_starts_as_a_mean():
    torch.manual_seed(0)
    pool = LearnedQueryAttention(WIDTH, 2, 1, "sdpa")
    torch.nn.init.zeros_(pool.queries)
    hidden = torch.randn(1, 3, WIDTH)
    vector = pool(hidden, torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 1).long())
    values = pool.key_value(pool.norm(hidden))[..., WIDTH:].mean(1)
    torch.testing.assert_close(vector[:, 0], pool.out(pool.read_norm(values)))
