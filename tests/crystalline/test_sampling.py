from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalline.errors import UserError
from crystalline.sampling import draw, next_token_probabilities, sample, window_start
from tests.tiny_models import RunningMean


def drawn(model, prompt, *, seed=0, **options):
    options = {"max_new_tokens": 30, **options}
    generator = torch.Generator().manual_seed(seed)
    return torch.stack(list(sample(model, torch.tensor(prompt), generator=generator, **options)), 1)


def test_the_same_seed_gives_the_same_text_and_another_seed_another():
    model = RunningMean()
    assert torch.equal(drawn(model, [[1, 2]], seed=5), drawn(model, [[1, 2]], seed=5))
    assert not torch.equal(drawn(model, [[1, 2]], seed=5), drawn(model, [[1, 2]], seed=6))


def test_without_a_generator_texts_are_the_same_and_the_global_state_is_not_touched():
    before = torch.get_rng_state()
    first, second = (
        list(sample(RunningMean(), torch.tensor([[1]]), max_new_tokens=9)) for _ in range(2)
    )
    assert first == second
    assert torch.equal(before, torch.get_rng_state())


def test_copies_draw_the_same_numbers():
    first, second = drawn(RunningMean(), [[1, 2], [5, 6]] * 2, copies=2).split(2)
    assert torch.equal(first, second)
    assert not torch.equal(*drawn(RunningMean(), [[1, 2]] * 2).split(1))


def test_tokens_are_drawn_as_often_as_their_probability_says_and_never_at_0():
    probabilities = torch.tensor([0.0, 0.25, 0.0, 0.7, 0.05, 0.0])
    numbers = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    counts = torch.bincount(draw(probabilities.expand(1000, -1), numbers), minlength=6)
    assert counts.tolist() == [0, 250, 0, 700, 50, 0]
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert draw(probabilities.expand(2, -1) / 3, ends).tolist() == [1, 4]
    with pytest.raises(ValueError, match="not numbers"):
        draw(torch.full((1, 3), torch.nan), ends[:1])


def test_zero_temperature_takes_the_likeliest_token_of_the_full_forward_pass():
    model = RunningMean(context_length=40).eval()
    text = torch.tensor([[7, 8, 9], [3, 1, 4]])
    for token in sample(model, text.clone(), max_new_tokens=20, temperature=0.0):
        assert torch.equal(model(text).logits[:, -1].argmax(-1), token)
        text = torch.cat([text, token[:, None]], 1)


class Counter(RunningMean):
    """Always writes the next number, so that a token is its own place; notes what caches are given.

    Refuses more than the context, as its base does.
    """

    def __init__(self, context_length: int, alignment: int) -> None:
        super().__init__(context_length=context_length)
        self.alignment, self.windows = alignment, []

    def init_cache(self, batch_size):
        self.windows.append([])
        return super().init_cache(batch_size)

    def step(self, tokens, cache):
        self.windows[-1] += tokens[0].tolist()
        super().step(tokens, cache)
        return torch.nn.functional.one_hot(tokens + 1, self.vocab_size) * 1e9


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.sampled_from([1, 2, 4]), st.integers(1, 30))
def test_a_full_context_slides_to_an_aligned_start_and_no_token_is_left_out(
    context_length, alignment, prompt_length
):
    context_length = max(context_length, alignment)
    model = Counter(context_length, alignment)
    new = drawn(model, [list(range(prompt_length))], max_new_tokens=25)[0].tolist()
    assert new == list(range(prompt_length, prompt_length + 25))
    for window in model.windows:
        assert window == list(range(window[0], window[0] + len(window)))
        assert window[0] % alignment == 0
        assert len(window) <= context_length
    for window, after in zip(model.windows, model.windows[1:], strict=False):
        assert len(window) == context_length  # slides only when it must
        assert window[0] < after[0] <= window[-1] + 1
    assert model.windows[-1][-1] == new[-1] - 1


@given(st.integers(1, 500), st.integers(1, 64), st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=20, deadline=None)
def test_a_window_keeps_three_quarters_of_the_context_or_one_group_less(
    length, context_length, alignment
):
    context_length = max(context_length, alignment)
    start = window_start(length, context_length, alignment)
    kept, wanted = length - start, max(1, context_length * 3 // 4)
    assert start % alignment == 0
    assert 1 <= kept <= max(wanted, alignment)
    assert kept > wanted - alignment or start == 0


def test_rows_that_have_stopped_repeat_the_stop_token_and_all_stopped_ends_the_text():
    model = RunningMean(vocab_size=3)
    text = drawn(model, [[0], [1], [2]], max_new_tokens=500, stop_id=2)
    assert text.shape[1] < 500
    for row in text.tolist():
        first = row.index(2)
        assert set(row[first:]) == {2}
    assert (text[:, :-1] != 2).any(1).any() or text.shape[1] == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**31), st.floats(0.1, 3))
def test_top_k_keeps_exactly_the_k_likeliest_with_their_proportions(k, seed, temperature):
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    chances = next_token_probabilities(logits, temperature, k, 1.0)
    assert ((chances > 0).sum(-1) == min(k, 9)).all()
    assert torch.allclose(chances.sum(-1), torch.ones(2))
    kept = chances > 0
    full = torch.softmax(logits / temperature, -1)
    assert torch.allclose(chances[kept], (full * kept / (full * kept).sum(-1, True))[kept])
    assert (full.masked_fill(~kept, 1).amin(-1) >= full.masked_fill(kept, 0).amax(-1) - 1e-7).all()


def test_top_p_keeps_the_smallest_set_that_reaches_the_probability():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for top_p, kept in ((0.4, 1), (0.5, 1), (0.6, 2), (0.81, 3), (0.96, 4), (1.0, 4), (1e-9, 1)):
        assert (next_token_probabilities(logits, 1.0, None, top_p) > 0).sum() == kept


def test_a_tiny_temperature_is_the_likeliest_token_and_not_nan():
    logits = torch.tensor([[1.0, 900.0, -5.0]])
    assert next_token_probabilities(logits, 1e-30, None, 1.0).tolist() == [[0.0, 1.0, 0.0]]


def test_the_caller_keeps_its_own_mode_and_gradients_between_tokens():
    model = RunningMean().train()
    for _ in sample(model, torch.tensor([[1]]), max_new_tokens=3):
        assert model.training
        assert model.dropout.training
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"temperature": -0.5}, "temperature=-0.5"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
    ],
)
def test_options_out_of_range_are_named_before_anything_is_computed(options, named):
    with pytest.raises(UserError, match=named):
        sample(RunningMean(), torch.tensor([[1]]), **{"max_new_tokens": 3, **options})


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(ValueError, match="pos > 0"):
        sample(RunningMean(), torch.zeros(1, 0, dtype=torch.int64), max_new_tokens=1)
