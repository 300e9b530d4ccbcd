"""All that is measured of a model of the state machine, in one go (spec 8.3, 9 and 10, E2)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalline.contract import LanguageModel
from crystalline.interpret import state_codes
from crystalline.interpret.machine_patching import MachinePatching, Patched
from crystalline.interpret.neurons import NeuronControl
from crystalline.interpret.reading import read, read_inputs
from crystalline.sampling import sample

_LABELS = ("code_precision", "code_recall", "code_coverage", "code_found", "found_precision",
           "matched_accuracy", "codes_per_label")  # fmt: skip


@dataclass(frozen=True)
class Study:
    """What was found."""

    figures: dict[str, float]
    """The numbers that a table shows, by name."""
    report: dict[str, Any]
    """Everything: every book, code and set of sites; JSON."""
    state_codes: Float[np.ndarray, "state code"] | None
    """`code_matrix` of the best book; None for a model without codes."""


def study(
    model: LanguageModel,
    machine: Any,
    tokens: Int[np.ndarray, "sequence length"],
    states: Int[np.ndarray, "sequence step"],
    *,
    samples: int,
    pairs: int,
    seed: int,
    parts: Sequence[str] = (),
    batch_size: int = 256,
) -> Study:
    """Sampled transitions; where the model has codes, also state codes and what patching does.

    Args:
        model: Its mode is the same afterwards.
        machine: A `datamodules.machine.Machine`.
        tokens: Sequences to read, the special token first.
        states: The states that they entered.
        samples: Sequences that the model writes, for `transitions`.
        pairs: Pairs of features whose codes are exchanged.
        seed: Of samples and pairs.
        parts: Beginnings of names of sites: the figures tell what patching all below one does.
        batch_size: Sequences at a time.
    """
    figures = {"transitions": transitions(model, machine, samples, tokens.shape[1], seed)}
    report: dict[str, Any] = {}
    matrix = None
    if model.codebooks():
        report["states"], found, matrix = _state_codes(model, machine, tokens, states, batch_size)
        figures |= found
        # Patching exchanges states by the digits that name them.
        features = {"state": False, "state_and_digit": True} if machine.readable else {}
        for name, with_digit in features.items():
            protocol = MachinePatching(model, machine, with_digit=with_digit)
            rows = protocol.run(pairs=pairs, longest_prefix=protocol.longest_prefix, seed=seed)
            report[f"patching/{name}"] = {
                key: asdict(row) | {"effect": _known(row.effect)} for key, row in rows.items()
            }
            if not with_digit:
                figures["first_transition"] = protocol.first_transition()
                figures |= effects(rows, parts)
    figures = {name: value for name, value in figures.items() if _known(value) is not None}
    return Study(figures, {**report, "figures": figures}, matrix)


def transitions(model: LanguageModel, machine: Any, samples: int, length: int, seed: int) -> float:
    """Share of legal transitions in sequences that the model writes at temperature 1."""
    opening = torch.full((samples, 1), machine.special)
    generator = torch.Generator().manual_seed(seed)
    drawn = sample(model, opening, max_new_tokens=length - 1, generator=generator)
    written = torch.cat([opening, torch.stack(list(drawn), dim=1)], dim=1)
    return float(machine.legal(written.numpy()).mean())


def effects(rows: dict[str, Patched], parts: Sequence[str] = ()) -> dict[str, float]:
    """`intervention_effect` of all sites, of each kind of site, and of the best set but those.

    Every layer and part of a layer counts among "single", and each of `parts` that the model has
    is told by itself. An effect is NaN where the prediction of both contexts is the same.
    """
    kinds = {name: row.effect for name, row in rows.items() if name == "all" or "*" in name}
    others = (row.effect for name, row in rows.items() if name not in kinds and name != "none")
    rest = [effect for effect in others if _known(effect) is not None]
    figures = {f"effect {name}": effect for name, effect in kinds.items()}
    sites = {site for row in rows.values() for site in row.sites}
    for part in parts:
        below = {site for site in sites if f"{site}.".startswith(f"{part}.")}
        same = [row.effect for row in rows.values() if below and below == set(row.sites)]
        figures |= {f"effect {part}": effect for effect in same[:1]}
    return figures | ({"effect single": max(rest)} if rest else {})


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _state_codes(
    model: LanguageModel,
    machine: Any,
    tokens: np.ndarray,
    states: np.ndarray,
    batch_size: int,
) -> tuple[dict[str, Any], dict[str, float], Float[np.ndarray, "state code"]]:
    """Every book's figures, those of the best one beside neurons, and its matrix."""
    windows = list(_batches(torch.from_numpy(tokens[:, :-1]), batch_size))
    length = tokens.shape[1] - 1
    reading = read(model, windows)
    phases = np.tile(machine.phases(length), len(tokens))
    labels = state_codes.state_labels(machine.align(states, length).reshape(-1), phases)
    books = state_codes.label_codes(reading, labels, machine.num_states)
    best = state_codes.best_book(books)

    def control(kept: np.ndarray, first: np.ndarray) -> NeuronControl | None:
        vectors = read_inputs(model, windows, [best.site]).get(best.site)
        return None if vectors is None else NeuronControl(vectors[kept], first)

    neurons = state_codes.label_neurons(reading, labels, best, control)
    beside = {} if neurons is None else state_codes.neuron_figures(best, neurons)
    found = state_codes.figures(best)
    report = {"best": found | beside, "books": [state_codes.figures(book) for book in books]}
    matrix, _ = state_codes.code_matrix(reading, labels, machine.num_states, best)
    return report, {name: found[name] for name in _LABELS} | beside, matrix


def _batches(rows: Tensor, size: int) -> Iterator[Tensor]:
    yield from rows.split(size)
