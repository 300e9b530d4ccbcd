"""Text from a model, token by token, through the generation cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.contract import LanguageModel
from crystalline.errors import UserError
from crystalline.eval_mode import evaluating


def sample(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    stop_id: int | None = None,
    copies: int = 1,
) -> Iterator[Int[Tensor, " batch"]]:
    """Continue `tokens`; yields the next token of every row, int64 on the CPU.

    When the model's context is full, the window slides: the cache is built anew from about the last
    three quarters of the context, starting at a multiple of `model.alignment`.

    Args:
        model: Its mode is the same after every token.
        tokens: At least one token a row; a prompt longer than the context is cut on the left.
        max_new_tokens: Tokens to add.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Draw from the k likeliest tokens; None for all.
        top_p: Draw from the smallest set of likeliest tokens with this probability.
        generator: CPU generator; the same seed gives the same text. None uses a fresh one, seeded
            with 0. The global random state is never touched.
        stop_id: A row that has drawn it repeats it; when all rows have, the text ends.
        copies: The rows are so many equal parts, one after the other, that draw the same numbers.

    Raises:
        UserError: If an option is out of range.
        ValueError: If `tokens` holds no token.
    """
    check_options(max_new_tokens, temperature, top_k, top_p)
    if tokens.ndim != 2 or tokens.shape[1] == 0:
        raise ValueError(f"tokens must be (batch, pos) with pos > 0, got {tuple(tokens.shape)}")
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    return _tokens(
        model, tokens.cpu(), max_new_tokens, temperature, top_k, top_p, generator, stop_id, copies
    )


def check_options(max_new_tokens: int, temperature: float, top_k: int | None, top_p: float) -> None:
    """Refuse what cannot be sampled with.

    Raises:
        UserError: Naming the option and its range.
    """
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens={max_new_tokens}: give 0 or more")
    if not 0 <= temperature < float("inf"):
        raise UserError(f"temperature={temperature}: give 0 (likeliest token) or a positive number")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k={top_k}: give 1 or more, or null for all tokens")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p={top_p}: give a number above 0 and up to 1 (1 keeps all tokens)")


def next_token_probabilities(
    logits: Float[Tensor, "batch vocab"], temperature: float, top_k: int | None, top_p: float
) -> Float[Tensor, "batch vocab"]:
    """Distribution to draw from: temperature first, then top-k, then top-p, each renormalised."""
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    # The maximum goes first: a tiny temperature would otherwise overflow to inf - inf.
    scaled = (logits.double() - logits.double().max(-1, keepdim=True).values) / temperature
    probabilities = torch.softmax(scaled, dim=-1)
    if top_k is not None and top_k < logits.shape[-1]:
        kept = probabilities.topk(top_k, dim=-1)
        probabilities = torch.zeros_like(probabilities).scatter(-1, kept.indices, kept.values)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered  # the likeliest token has 0 before it: always kept
        ordered = ordered.masked_fill(before >= top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities.float()


def draw(
    probabilities: Float[Tensor, "batch vocab"], numbers: Float[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """The token at which the distribution function passes a number of [0, 1): one a row.

    A token of probability 0 is never drawn.

    Raises:
        ValueError: If probabilities are not numbers.
    """
    passed = probabilities.double().cumsum(-1)
    total = passed[:, -1:].contiguous()
    if not total.isfinite().all():
        raise ValueError("the model's scores are not numbers: no token can be drawn")
    last = torch.searchsorted(passed, total)  # the last token that can be drawn
    found = torch.searchsorted(passed, numbers[:, None] * total, right=True)
    return torch.minimum(found, last)[:, 0]


def window_start(length: int, context_length: int, alignment: int) -> int:
    """Where a window over the last tokens of a text of `length` tokens begins once it must slide.

    At a multiple of `alignment`, so that a pyramid's groups stay the same groups, and such that
    about 3/4 of the context is filled and the rest is free for new tokens.
    """
    keep = max(1, context_length * 3 // 4)
    start = -(-(length - keep) // alignment) * alignment
    return max(0, min(start, (length - 1) // alignment * alignment))


def _tokens(
    model: LanguageModel,
    text: Tensor,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    generator: torch.Generator,
    stop_id: int | None,
    copies: int,
) -> Iterator[Tensor]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    stopped = torch.zeros(len(text), dtype=torch.bool)
    cache, start, seen = None, 0, 0  # the cache holds text[:, start:seen]
    for _ in range(max_new_tokens):
        with evaluating(model):  # not around the yield: the caller goes on in its own mode
            if cache is None or text.shape[1] - start > model.context_length:
                if text.shape[1] - start > model.context_length:
                    start = window_start(text.shape[1], model.context_length, model.alignment)
                cache, seen = model.init_cache(len(text)), start
            logits = model.step(text[:, seen:].to(device), cache)[:, -1].float()
            seen = text.shape[1]
            probabilities = next_token_probabilities(logits, temperature, top_k, top_p)
            numbers = torch.rand(len(text) // copies, dtype=torch.float64, generator=generator)
            chosen = draw(probabilities, numbers.repeat(copies).to(device)).cpu()
        if stop_id is not None:
            chosen = chosen.masked_fill(stopped, stop_id)
            stopped |= chosen == stop_id
        text = torch.cat([text, chosen[:, None]], dim=1)
        yield chosen
        if stopped.all():
            return
