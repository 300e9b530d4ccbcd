"""Do codes carry the state of a machine? Patch another state's codes in and see what follows.

The state machine experiment of Codebook Features (Tamkin et al. 2023, arXiv:2310.17230): a context
ends in feature a; at its last digit, the codes of some sites are replaced by those that the bare
run "special token, digits of b" chose there. If the sites carry the state, the model now predicts
what follows b. A feature is a state, or a state and the first digit of the next one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.contract import Edits, LanguageModel
from crystalline.errors import UserError
from crystalline.eval_mode import evaluating
from crystalline.interpret.interventions import patch
from crystalline.interpret.machine_contexts import contexts, features
from crystalline.interpret.sites import Site, find_sites
from crystalline.metrics.intervention_effect import InterventionEffect

LONGEST_PREFIX = 62
"""States before the one that is replaced, as in the paper."""
_OVERLAP = 0.8


@dataclass(frozen=True)
class Patched:
    """What patching a set of sites did."""

    sites: tuple[str, ...]
    effect: float
    """`intervention_effect`, of the distribution of the next digit."""
    success: float | None
    """Share of pairs of which at least 80 % of the likeliest next states may follow b."""

    @property
    def normalised(self) -> float:
        """Sum of JSD(patched, b) over the sum of JSD(a, b): 1 if nothing moved, 0 if all did."""
        return 1 - self.effect


def site_sets(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Sets of sites by what their names share: none, each alone, each part, each kind, all.

    A part is what a name says up to any of its dots ("layers.1", "layers.1.mlp"); a kind is what
    it says but for numbers ("layers.*.mlp.group.*"). Sets with the same members stand there once.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts)):
            groups.setdefault(".".join(parts[:end]), []).append(name)
    for name in names:
        groups.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", name), []).append(name)
    sets: dict[str, tuple[str, ...]] = {"none": (), **{name: (name,) for name in names}}
    seen = {*sets.values(), tuple(names)}
    for group, members in groups.items():
        if tuple(members) not in seen:
            seen.add(tuple(members))
            sets[group] = tuple(members)
    return sets if len(names) < 2 else {**sets, "all": tuple(names)}


class MachinePatching:
    """The protocol on one model and machine.

    Only sites that have a position for every token are patched: others see a's last digit together
    with tokens that the bare run does not have.

    Args:
        model: Its mode is the same afterwards.
        machine: A `datamodules.machine.Machine` or its like.
        with_digit: Whether features are a state and the next digit, instead of a state.
        batch_size: Pairs at a time.

    Raises:
        UserError: If digits do not name the machine's states, no site can be patched, or the
            model's context is too short.
    """

    def __init__(
        self, model: LanguageModel, machine: Any, *, with_digit: bool = False, batch_size: int = 128
    ) -> None:
        self.model, self.machine, self.batch_size = model, machine, batch_size
        self.features = features(machine, with_digit=with_digit)
        self.with_digit = with_digit
        self.device = next(model.parameters()).device
        width = machine.digits_per_state
        room = model.context_length - 1 - (1 if with_digit else width - 1)
        if room < width:
            raise UserError(f"checkpoint: a context of {model.context_length} tokens is too short")
        self.longest_prefix = min(LONGEST_PREFIX, room // width - 1)
        self.sites: dict[str, Site] = {}
        self.left_out: list[str] = []
        bare = self._bare_runs()
        with evaluating(model):
            output = model(bare, codes=True)
        for name, site in find_sites(model).items():
            if name in output.codes and site.span == 1 and output.codes[name].ends is None:
                self.sites[name] = site
            else:
                self.left_out.append(name)
        if not self.sites:
            raise UserError("checkpoint: this model has no site with a position for every token")
        self.target_logits = output.logits[:, -1]
        self.codes = {name: output.codes[name].indices[:, -1:] for name in self.sites}

    def run(self, *, pairs: int | None, longest_prefix: int, seed: int) -> dict[str, Patched]:
        """Patch every set of sites (see `site_sets`) in the same contexts.

        Args:
            pairs: Ordered pairs of features, drawn at random; None for all.
            longest_prefix: States before a, at most; 0 patches bare runs.
            seed: Draws pairs and contexts.
        """
        random = np.random.default_rng(seed)
        found = contexts(
            self.machine, self.features, random, pairs=pairs, longest_prefix=longest_prefix
        )
        sets = site_sets(list(self.sites))
        effects = {name: InterventionEffect().to(self.device) for name in sets}
        followed = dict.fromkeys(sets, 0)
        with evaluating(self.model):
            for batch in found.batches(self.batch_size):
                tokens, last, target = (part.to(self.device) for part in batch)
                rows = torch.arange(len(tokens), device=self.device)
                clean = self.model(tokens).logits[rows, last]
                for name, sites in sets.items():
                    edits = self._patches(sites, target, last)
                    patched = self.model(tokens, edits=edits).logits[rows, last]
                    effects[name].update(patched, clean, self.target_logits[target])
                    if not self.with_digit:
                        law = self._next_states(tokens, last, sites, target)
                        followed[name] += int((self._overlap(law, target) >= _OVERLAP).sum())
        count = len(found.target)
        return {
            name: Patched(
                sites,
                float(effects[name].compute()),
                None if self.with_digit else followed[name] / count,
            )
            for name, sites in sets.items()
        }

    def first_transition(self) -> float:
        """Overlap of each state's likeliest next states with those that may follow it; their mean.

        From the bare runs, without a patch; chance is the share of states that may follow.
        """
        states = torch.arange(self.machine.num_states, device=self.device)
        bare = self._bare_runs()[:, : 1 + self.machine.digits_per_state]
        last = torch.full_like(states, bare.shape[1] - 1)
        with evaluating(self.model):
            law = self._next_states(bare[: len(states)], last, (), states)
        return float(self._overlap(law, states).mean())

    def _bare_runs(self) -> Int[Tensor, "feature pos"]:
        """The special token and the digits of each feature."""
        opening = np.full((len(self.features.digits), 1), self.machine.special)
        runs = np.concatenate([opening, self.features.digits], axis=1)
        return torch.from_numpy(runs).to(self.device)

    def _patches(self, sites: Sequence[str], target: Tensor, last: Tensor) -> Edits:
        """Those of b at each row's last digit."""
        positions, origin = last[:, None], torch.zeros_like(last)[:, None]
        return {
            name: patch(self.sites[name], self.codes[name][target], positions, origin)
            for name in sites
        }

    def _next_states(
        self, tokens: Tensor, last: Tensor, sites: Sequence[str], target: Tensor
    ) -> Float[Tensor, "pair state"]:
        """Sum over the digits of each state of log p(digit | digits before it).

        The digits before the last one are forced, in every way that occurs; the patch stays.
        """
        digits = torch.from_numpy(self.machine.digits).to(self.device)
        forced, way = digits[:, :-1].unique(dim=0, return_inverse=True)
        width, ways = digits.shape[1], len(forced)
        rows, last, target = (
            part.repeat_interleave(ways, 0)
            for part in (torch.nn.functional.pad(tokens, (0, width - 1)), last, target)
        )
        steps = last[:, None] + torch.arange(width, device=self.device)
        rows = rows.scatter(1, steps[:, 1:], forced.repeat(len(tokens), 1))
        logits = self.model(rows, edits=self._patches(sites, target, last)).logits
        log_p = logits.gather(1, steps[..., None].expand(-1, -1, logits.shape[-1]))
        log_p = log_p.float().log_softmax(-1).unflatten(0, (len(tokens), ways))
        return log_p[:, way[:, None], torch.arange(width, device=self.device), digits].sum(-1)

    def _overlap(self, law: Tensor, states: Tensor) -> Float[Tensor, " pair"]:
        """Share of the likeliest next states that may follow the features' states."""
        may_follow = torch.from_numpy(self.machine.transitions > 0).to(self.device)
        of_state = torch.from_numpy(self.features.states).to(self.device)[states]
        allowed = may_follow[of_state]
        likeliest = law.topk(int(allowed.sum(-1).max())).indices
        return allowed.gather(1, likeliest).float().sum(-1) / allowed.sum(-1)
