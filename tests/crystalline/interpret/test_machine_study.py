"""The whole study on a model that knows the machine and on models that know nothing."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from crystalline.contract import Choice, Codes, LanguageModel, ModelOutput
from crystalline.interpret.machine_patching import Patched
from crystalline.interpret.machine_study import effects, study, transitions
from datamodules.machine import random_machine
from tests.tiny_models import Plain

MACHINE = random_machine(16, 4, num_edges=4, seed=1)
STATES, BASE, LENGTH = 16, 4, 17
SITE = "layers.0.mlp.quantizer"


class KnowsTheMachine(LanguageModel):
    """An automaton; its code is the state that was entered, and predicts what follows it.

    Code 16 says that no state was entered yet. At the first digit d of the next state the code is
    17 + 4 * (the code before) + d.
    """

    def __init__(self) -> None:
        super().__init__(BASE + 1, LENGTH)
        self.unused = nn.Parameter(torch.zeros(()))
        start = STATES
        codes = start + 1 + (start + 1) * BASE
        self.following = torch.full((codes, BASE + 1), start)
        weights = np.full((codes, BASE + 1), 1e-13)
        laws = [*MACHINE.transitions, MACHINE.start]
        for before, law in enumerate(laws):
            for first in range(BASE):
                half_way = start + 1 + before * BASE + first
                self.following[before, first] = half_way
                for second in range(BASE):
                    state = first * BASE + second
                    self.following[half_way, second] = state
                    weights[before, first] += law[state]
                    weights[half_way, second] += law[state]
        self.scores = torch.from_numpy(weights).float().log()

    def forward(self, tokens, *, codes=False, edits=None, cache=None) -> ModelOutput:
        code, found = torch.full_like(tokens[:, 0], STATES), []
        for position in range(tokens.shape[1]):
            code = self.following[code, tokens[:, position]]
            if edits and SITE in edits:
                chosen, where = code[:, None, None], torch.tensor([position])
                code = edits[SITE](Choice(chosen, where, torch.zeros_like))[:, 0, 0]
            found.append(code)
        indices = torch.stack(found, dim=1)
        listed = {SITE: Codes(indices[..., None], len(self.scores))} if codes else {}
        return ModelOutput(self.scores[indices], codes=listed)

    def init_cache(self, batch_size: int) -> None:
        return None

    def codebooks(self):
        return {SITE: self.scores}


class Uniform(KnowsTheMachine):
    """The same codes, but every token is as likely as any other."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = torch.zeros_like(self.scores)


def studied(model: LanguageModel, **options):
    walks = MACHINE.sample(np.random.default_rng(0), 60, LENGTH)
    counts = {"samples": 20, "pairs": 30, "seed": 0, **options}
    return study(model, MACHINE, walks.tokens, walks.states, **counts)


def patched(effect: float) -> Patched:
    return Patched((), effect, None)


def test_a_model_that_knows_the_machine_writes_only_legal_transitions():
    assert transitions(KnowsTheMachine(), MACHINE, 50, LENGTH, seed=0) == 1


def test_uniform_logits_write_legal_transitions_by_chance():
    found = transitions(Uniform(), MACHINE, 1000, LENGTH, seed=0)
    # Of 25 pairs of tokens 16 are a state, and 4 of them may follow it.
    assert found == pytest.approx(16 / 25 * 4 / 25, abs=0.02)


def test_the_seed_decides_what_is_written():
    def written(seed: int) -> float:
        return transitions(Uniform(), MACHINE, 50, LENGTH, seed)

    assert written(1) == written(1)
    assert len({written(seed) for seed in range(5)}) > 1


def test_effects_are_those_of_all_sites_of_each_kind_and_of_the_best_of_the_rest():
    rows = {
        "none": patched(0.8),
        "layers.0.mlp": patched(0.3),
        "layers.1.mlp": patched(0.1),
        "layers.1": patched(0.5),
        "layers.*.mlp": patched(0.6),
        "layers.*.attn.group.*": patched(0.2),
        "all": patched(0.9),
    }
    assert effects(rows) == {
        "effect layers.*.mlp": 0.6,
        "effect layers.*.attn.group.*": 0.2,
        "effect all": 0.9,
        "effect single": 0.5,
    }


def test_parts_of_the_model_are_told_by_themselves_whatever_their_set_is_called():
    heads = ("layers.0.attn.group.0", "layers.0.attn.group.1")
    rows = {
        "none": patched(0.0),
        heads[0]: Patched(heads[:1], 0.1, None),
        heads[1]: Patched(heads[1:], 0.2, None),
        "layers.0.mlp.group.0": Patched(("layers.0.mlp.group.0",), 0.4, None),
        "layers.0.attn": Patched(heads, 0.3, None),
    }
    found = effects(rows, ["layers.0.attn", "layers.0.mlp", "layers.0.at", "layers.1.mlp"])
    assert found == {
        "effect layers.0.attn": 0.3,
        "effect layers.0.mlp": 0.4,
        "effect single": 0.4,
    }


def test_where_every_set_is_of_a_kind_there_is_no_single_effect():
    rows = {"none": patched(0.0), "layers.*.mlp": patched(0.6), "all": patched(0.9)}
    assert effects(rows) == {"effect layers.*.mlp": 0.6, "effect all": 0.9}


def test_of_a_model_without_codebooks_only_transitions_are_measured():
    found = studied(Plain(BASE + 1, LENGTH))
    assert list(found.figures) == ["transitions"]
    assert found.report == {"figures": found.figures}


def test_codes_that_are_the_states_are_found_and_do_everything():
    model = KnowsTheMachine()
    found = studied(model)
    for name in ("transitions", "code_precision", "code_recall", "code_coverage", "code_found",
                 "found_precision", "matched_accuracy", "first_transition"):  # fmt: skip
        assert found.figures[name] == 1, name
    assert found.figures["codes_per_label"] == pytest.approx(1)
    assert found.figures["effect single"] == pytest.approx(1, abs=1e-6)
    assert model.training


def test_figures_of_codes_do_not_depend_on_what_the_model_predicts():
    known, blind = studied(KnowsTheMachine()).figures, studied(Uniform()).figures
    assert blind["code_precision"] == known["code_precision"] == 1
    assert blind["transitions"] < 0.3
    assert blind["first_transition"] < 0.5


def test_the_report_has_every_book_and_every_set_of_sites_and_is_json():
    found = studied(KnowsTheMachine())
    report = json.loads(json.dumps(found.report))
    assert report["figures"] == found.figures
    assert [book["site"] for book in report["states"]["books"]] == [SITE]
    for name in ("state", "state_and_digit"):
        assert set(report[f"patching/{name}"]) == {"none", SITE}
        assert report[f"patching/{name}"][SITE]["effect"] == pytest.approx(1, abs=1e-6)
    assert report["patching/state"][SITE]["success"] == 1


def test_the_batch_size_changes_no_figure():
    assert studied(KnowsTheMachine(), batch_size=7).report == studied(KnowsTheMachine()).report
