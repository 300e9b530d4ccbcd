"""The protocol on a model in which one site is the state and another is not."""

import numpy as np
import pytest
import torch
from torch import nn

from crystalline.contract import Choice, Codes, LanguageModel, ModelOutput
from crystalline.errors import UserError
from crystalline.interpret.machine_contexts import contexts, features
from crystalline.interpret.machine_patching import MachinePatching, site_sets
from datamodules.machine import group_machine, hidden_machine, random_machine
from tests.tiny_models import Plain

MACHINE = random_machine(14, 10, num_edges=4, seed=1)
SITES = ("layers.0.attn.quantizer", "layers.0.mlp.quantizer", "layers.1.pairs")


class KnowsTheMachine(LanguageModel):
    """Predicts by the code of "layers.0.mlp.quantizer" alone; "layers.0.attn.quantizer" is idle.

    At the second digit of a state the code is the state's number; at the first digit d it is
    100 (1 + d) + the code before. "layers.1.pairs" has one position for two tokens.
    """

    def __init__(self, context_length: int = 20) -> None:
        super().__init__(11, context_length)
        self.unused = nn.Parameter(torch.zeros(()))
        law = torch.from_numpy(MACHINE.transitions).float() @ self._first(MACHINE.digits)
        self.register_buffer("first", law.log().clamp_min(-30))
        self.register_buffer("second", self._second())

    @staticmethod
    def _first(digits: np.ndarray) -> torch.Tensor:
        return torch.eye(11)[torch.from_numpy(digits[:, 0])]

    @staticmethod
    def _second() -> torch.Tensor:
        """log p(second digit) by state and first digit."""
        table = torch.full((MACHINE.num_states, 11, 11), 1e-13)
        for state, following in enumerate(MACHINE.successors):
            for one, two in MACHINE.digits[following]:
                table[state, one, two] += 1
        return (table / table.sum(-1, keepdim=True)).log()

    def forward(self, tokens, *, codes=False, edits=None, cache=None) -> ModelOutput:
        where = torch.arange(tokens.shape[1])
        opens = (where % 2 == 1).expand_as(tokens)  # a state's first digit
        states = (10 * tokens.roll(1, 1) + tokens).clamp(max=MACHINE.num_states - 1)
        site = SITES[1]

        def edited(indices):
            if not edits or site not in edits:
                return indices
            return edits[site](Choice(indices[..., None], where, lambda _: indices))[..., 0]

        before = edited(states).roll(1, 1)
        indices = edited(torch.where(opens, 100 * (1 + tokens) + before, states))
        digit, state = (indices // 100 - 1).clamp(min=0), indices % 100
        state = state.clamp(max=MACHINE.num_states - 1)
        logits = torch.where(opens[..., None], self.second[state, digit], self.first[state])
        found = {
            SITES[0]: Codes(tokens[..., None], 11),
            SITES[1]: Codes(indices[..., None], 1200),
            SITES[2]: Codes(tokens[:, 1::2, None], 11, span=2),
        }
        return ModelOutput(logits, codes=found if codes else {})

    def init_cache(self, batch_size: int) -> None:
        return None


@pytest.mark.parametrize("with_digit", [False, True])
@pytest.mark.parametrize("bare", [False, True])
def test_a_patch_of_the_states_site_does_everything_and_one_of_an_idle_site_nothing(
    with_digit, bare
):
    model = KnowsTheMachine()
    protocol = MachinePatching(model, MACHINE, with_digit=with_digit, batch_size=7)
    assert protocol.left_out == [SITES[2]]
    longest = 0 if bare else protocol.longest_prefix
    found = protocol.run(pairs=40, longest_prefix=longest, seed=0)
    assert list(found) == ["none", *SITES[:2], "all"]
    for name in ("none", SITES[0]):
        assert found[name].effect == 0
        assert found[name].normalised == 1
    for name in (SITES[1], "all"):
        assert found[name].effect == pytest.approx(1, abs=1e-6)
        assert found[name].success == (None if with_digit else 1)
    if not with_digit:
        assert found["none"].success == 0
    assert model.training


def test_the_likeliest_next_states_are_those_that_may_follow():
    assert MachinePatching(KnowsTheMachine(), MACHINE).first_transition() == 1


def test_all_pairs_are_every_ordered_pair_of_different_features_once():
    random = np.random.default_rng(0)
    states = features(MACHINE, with_digit=False)
    found = contexts(MACHINE, states, random, pairs=None, longest_prefix=3)
    rows = range(len(found.last))
    a = MACHINE.read(found.tokens.numpy())[rows, found.last.numpy() // 2 - 1]
    pairs = set(zip(a.tolist(), found.target.tolist(), strict=True))
    assert len(pairs) == len(rows) == 14 * 13
    assert all(one != other for one, other in pairs)


def test_contexts_are_legal_walks_of_every_length():
    random = np.random.default_rng(0)
    found = contexts(
        MACHINE, features(MACHINE, with_digit=False), random, pairs=100, longest_prefix=5
    )
    for line, last in zip(found.tokens.numpy(), found.last.tolist(), strict=True):
        assert line[0] == 10
        assert bool(MACHINE.legal(line[None, : last + 1]).all())
        assert (line[last + 1 :] == 10).all()
    assert set(found.last.tolist()) == {2, 4, 6, 8, 10, 12}
    sizes = [(part.tokens.shape[1], int(part.last.max())) for part in found.batches(30)]
    assert all(length == last + 1 for length, last in sizes)
    assert sizes == sorted(sizes)


def test_a_state_with_a_digit_is_one_that_may_follow_it():
    found = features(random_machine(100, 10), with_digit=True)
    assert len(found.states) == 686  # as the paper counts
    random = np.random.default_rng(0)
    drawn = contexts(
        MACHINE, features(MACHINE, with_digit=True), random, pairs=50, longest_prefix=4
    )
    for line, last in zip(drawn.tokens.numpy(), drawn.last.tolist(), strict=True):
        state = MACHINE.read(line[None, :last])[0, -1]
        assert line[last] in MACHINE.digits[MACHINE.successors[state], 0]


def test_prefixes_fit_the_context_and_are_at_most_those_of_the_paper():
    def longest(length: int, with_digit: bool = False) -> int:
        return MachinePatching(
            KnowsTheMachine(length), MACHINE, with_digit=with_digit
        ).longest_prefix

    assert (longest(128), longest(128, True), longest(400)) == (62, 62, 62)
    assert (longest(127), longest(16), longest(4)) == (61, 6, 0)
    with pytest.raises(UserError, match="a context of 3 tokens is too short"):
        longest(3)


def test_sets_of_sites_follow_their_names():
    heads = [f"layers.{i}.{p}" for i in (0, 1) for p in ("attn.group.0", "attn.group.1", "mlp")]
    sets = site_sets(heads)
    assert list(sets)[:7] == ["none", *heads]
    assert sets["layers.1"] == tuple(heads[3:])
    assert sets["layers.0.attn"] == tuple(heads[:2])
    assert sets["layers.*.attn.group.*"] == (*heads[:2], *heads[3:5])
    assert sets["layers.*.mlp"] == (heads[2], heads[5])
    assert sets["all"] == tuple(heads)
    assert len(set(sets.values())) == len(sets)  # no set twice
    assert site_sets(["only"]) == {"none": (), "only": ("only",)}


@pytest.mark.parametrize("machine", [hidden_machine(), group_machine()])
def test_machines_whose_digits_do_not_name_the_state_are_refused(machine):
    with pytest.raises(UserError, match=r"data\.variant: states must be known by their digits"):
        MachinePatching(KnowsTheMachine(), machine)


def test_a_model_without_sites_is_refused():
    with pytest.raises(UserError, match="no site with a position for every token"):
        MachinePatching(Plain(), MACHINE)
