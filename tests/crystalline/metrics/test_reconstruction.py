"""What comes back from codes, where it is known."""

import math

import pytest
import torch

from crystalline.contract import Codes, LanguageModel, ModelOutput, Reconstruction
from crystalline.metrics.reconstruction import reconstruction

TOKENS = torch.tensor([[0, 1, 2, 3, 1, 2, 3, 3], [1, 1, 2, 2, 0, 3, 0, 2]])
ENDS = torch.tensor([[1, 2, 5, 5], [0, 3, 6, 6]])
"""Positions of two, one and three tokens, and of one, three and three; the fourth is padding."""
MASK = torch.tensor([[True, True, True, False], [True, True, True, False]])


class Tells(LanguageModel):
    """Knows every token with probability 1/2, but token 2: it says 3 where that should be."""

    def __init__(self) -> None:
        super().__init__(4, 8)
        self.register_parameter("one", torch.nn.Parameter(torch.ones(())))

    def forward(self, tokens, *, codes=False, edits=None, cache=None) -> ModelOutput:
        raise AssertionError("not asked")

    def init_cache(self, batch_size: int) -> None:
        return None

    def reconstruct(self, tokens) -> Reconstruction:
        said = torch.where(tokens == 2, 3, tokens).roll(-1, 1)
        logits = torch.full((*tokens.shape, 4), 1 / 6).log()
        logits.scatter_(-1, said[..., None], math.log(0.5))
        codes = Codes(torch.zeros(2, 4, 1, dtype=torch.long), 5, mask=MASK, ends=ENDS)
        return Reconstruction(ModelOutput(logits, codes={"site": codes}), torch.tensor([1.5, 2.0]))


class Silent(Tells):
    def reconstruct(self, tokens) -> None:
        return None


def shifted(tokens):
    targets = tokens.roll(-1, 1)
    targets[:, -1] = -100
    return targets


def test_positions_are_counted_by_their_length():
    found = reconstruction(Tells(), [(TOKENS, shifted(TOKENS))])
    rows = found.rows
    assert [(row.length, row.positions) for row in rows] == [(0, 4), (1, 1), (3, 3)]
    # Length 1: [2]. Length 3: [3 1 2], [1 2 2] and [0 3 0].
    assert [row.accuracy for row in rows] == pytest.approx([6 / 10, 0, 6 / 9])
    assert [row.exact for row in rows] == pytest.approx([1 / 4, 0, 1 / 3])
    missed = math.log(6)
    assert rows[1].nats == pytest.approx(missed)
    assert rows[2].nats == pytest.approx((6 * math.log(2) + 3 * missed) / 9)
    twos = int((TOKENS[:, 1:] == 2).sum())
    assert found.token_nats == pytest.approx(twos * missed + (14 - twos) * math.log(2))
    assert found.code_nats == 3.5


def test_a_position_with_a_token_that_is_not_scored_is_left_out():
    targets = shifted(TOKENS)
    targets[0, 3] = -100
    rows = reconstruction(Tells(), [(TOKENS, targets)]).rows
    assert [(row.length, row.positions) for row in rows] == [(0, 3), (1, 1), (3, 2)]


def test_a_model_that_reconstructs_nothing_has_no_figures():
    assert reconstruction(Silent(), [(TOKENS, shifted(TOKENS))]) is None
