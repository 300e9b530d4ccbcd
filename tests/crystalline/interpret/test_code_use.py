"""What replaced codes cost a model that needs them, and one that does not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crystalline.contract import Choice, Codes, Edits, LanguageModel, ModelOutput
from crystalline.eval_mode import evaluating
from crystalline.interpret.code_use import code_use, replacing
from tests.model_zoo import CONTEXT, VOCAB, build
from tests.tiny_models import Plain


class Told(LanguageModel):
    """Gives 0.9 to the token that its code names; the code is the token that stands there.

    With `pairs`, a position is a segment of two tokens that are alike.
    """

    def __init__(self, listens: bool = True, pairs: bool = False) -> None:
        super().__init__(2, 8)
        self.listens, self.pairs = listens, pairs
        self.scores = nn.Parameter(torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log())

    def forward(
        self, tokens: Tensor, *, codes: bool = False, edits: Edits | None = None, cache: Any = None
    ) -> ModelOutput:
        indices = (tokens[:, 1::2] if self.pairs else tokens)[..., None]
        if edits and "told" in edits:
            where = torch.arange(indices.shape[1])
            indices = edits["told"](Choice(indices, where, lambda banned: indices))
        said = indices[..., 0] if self.listens else (tokens[:, 1::2] if self.pairs else tokens)
        said = said.repeat_interleave(2, 1) if self.pairs else said
        ends = torch.arange(1, 8, 2).expand(len(tokens), -1) if self.pairs else None
        found = {"told": Codes(indices, 2, ends=ends)} if codes else {}
        return ModelOutput(self.scores[said], codes=found)

    def init_cache(self, batch_size: int) -> None:
        return None


TOKENS = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0, 0, 0]])
BATCHES = [(TOKENS[:1], TOKENS[:1]), (TOKENS[1:], TOKENS[1:])]
NATS = math.log(9)  # what a wrong code costs


def test_a_model_that_needs_its_codes_loses_what_they_said():
    found = code_use(Told(), BATCHES, seed=0)["told"]
    assert found["constant"] == pytest.approx(4 / 16 * NATS)  # the four ones are taken for zeros
    assert found["constant_bits"] == pytest.approx(4 / 16 * math.log2(9))
    wrong = found["shuffled"] * 16 / NATS  # as many zeros as ones are out of place
    assert wrong == pytest.approx(round(wrong))
    assert round(wrong) in (2, 4, 6, 8)
    assert found["choice_bits"] == pytest.approx(-(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75)))
    assert found["limit_bits"] == 1


def test_bits_are_those_of_a_segment_and_nats_those_of_a_token():
    found = code_use(Told(pairs=True), BATCHES, seed=0)["told"]
    assert found["constant"] == pytest.approx(4 / 16 * NATS)
    assert found["constant_bits"] == pytest.approx(4 / 8 * math.log2(9))


def test_targets_that_are_not_scored_do_not_count():
    targets = TOKENS.clone()
    targets[:, :2] = -100
    found = code_use(Told(), [(TOKENS, targets)], seed=0)["told"]
    assert found["constant"] == pytest.approx(4 / 12 * NATS)


def test_a_model_that_ignores_its_codes_loses_nothing():
    found = code_use(Told(listens=False), BATCHES, seed=0)["told"]
    assert found["constant"] == found["shuffled"] == found["shuffled_bits"] == 0
    assert code_use(Plain(2, 8), BATCHES, seed=0) == {}


def test_the_seed_decides_the_permutation():
    tokens = torch.randint(2, (40, 8), generator=torch.Generator().manual_seed(0))
    found = [code_use(Told(), [(tokens, tokens)], seed)["told"] for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]
    assert found[0]["constant"] == found[2]["constant"]


def test_padding_keeps_what_it_chose():
    choice = Choice(torch.tensor([[[1], [2], [3]]]), torch.arange(3), lambda banned: TOKENS)
    edit = replacing(torch.tensor([[[7]]]), torch.tensor([[False, True, False]]))
    assert edit(choice).flatten().tolist() == [1, 7, 3]
    assert replacing(torch.tensor([[[7]]]), None)(choice).flatten().tolist() == [7, 7, 7]


IDLE = {"ziggurat_2": {"stages.1.blocks.0.quantizer"}}  # without feedback it reaches no score
FAMILIES = ("abstractinator_1", "abstractinator_2", "ziggurat_2", "crystalline", "crystal")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_codes_change_nothing_and_others_do(name):
    model = build(name)
    tokens = torch.randint(0, VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(0))
    with evaluating(model):
        plain = model(tokens, codes=True)
        own = {site: replacing(codes.indices, codes.mask) for site, codes in plain.codes.items()}
        assert torch.equal(model(tokens, edits=own).logits, plain.logits)
        same = {site: (lambda choice: choice.indices) for site in plain.codes}
        assert torch.equal(model(tokens, edits=same).logits, plain.logits)
    found = code_use(model, [(tokens, tokens.roll(-1, 1))], seed=0)
    assert list(found) == [*plain.codes, *(["all"] if len(plain.codes) > 1 else [])]
    idle = {site for site, each in found.items() if each["constant"] == each["shuffled"] == 0}
    assert idle == IDLE.get(name, set())
    for figures in list(found.values())[: len(plain.codes)]:
        assert 0 <= figures["choice_bits"] <= figures["limit_bits"]
