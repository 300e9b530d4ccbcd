"""Does a model keep to the past? Asked of a model that is about to be trained."""

from __future__ import annotations

from copy import deepcopy

import torch

from crystalline.contract import LanguageModel


def first_leak(model: LanguageModel, seed: int = 0) -> str | None:
    """What a model reads of tokens to come, in a line; None if nothing.

    Random tokens of one full context, of which one is changed: no score before it may differ in a
    single bit, in training mode or in evaluation; and some score from it on must, or the question
    was not asked. A copy answers, with all that starts as zero shaken, so that no path is hidden.
    """
    length = model.context_length
    for training in (False, True):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            shaken = deepcopy(model).train(training)
            for parameter in shaken.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            tokens = torch.randint(model.vocab_size, (1, length))
            before = _scores(shaken, tokens, seed)
            for place in sorted({1 % length, length // 2, length - 1}):
                other = tokens.clone()
                other[:, place] = (other[:, place] + 1) % model.vocab_size
                same = (_scores(shaken, other, seed) == before).all(-1)[0]
                mode = "training" if training else "evaluation"
                if not bool(same[:place].all()):
                    read = int((~same[:place]).nonzero()[0])
                    return f"in {mode}, scores at position {read} depend on token {place}"
                if bool(same[place:].all()):
                    return f"in {mode}, no score depends on token {place}"
    return None


def _scores(model: LanguageModel, tokens: torch.Tensor, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)  # dropout and noise are the same for both texts
    return model(tokens).logits
