"""What `crystalline.search` looks for: a function of the text read for each key that asks."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch import Tensor

from crystalline.checkpoint import Loaded
from crystalline.errors import UserError
from crystalline.generate import write
from crystalline.interpret import code_views, search_text, state_codes
from crystalline.interpret.bucket_text import render
from crystalline.interpret.buckets import bucket_table
from crystalline.interpret.code_search import compile_pattern, matched_tokens, search_codes
from crystalline.interpret.neurons import Neuron, NeuronControl
from crystalline.interpret.reading import Reading, read, read_inputs
from crystalline.interpret.topics import topic_codes, topic_sequences
from datamodules.batch import without_padding
from datamodules.fsm import FSMDataModule
from datamodules.rounds import RoundDataModule


@dataclass(frozen=True)
class Text:
    """What was read, and with which model."""

    loaded: Loaded
    windows: list[Tensor]
    """Batches (B, T) int64 of the windows that were read."""
    reading: Reading
    states: np.ndarray | None = None
    """(N,) int64 state of each token, -1 at special ones; None where data has no states."""
    phases: np.ndarray | None = None
    """(N,) int64 which digit of its state each token is."""
    inputs: dict[str, Tensor | None] = field(default_factory=dict)
    """What the site last asked about reads: one at a time, all together may not fit."""

    def neurons(
        self, site: str, first: np.ndarray, kept: np.ndarray | None = None
    ) -> NeuronControl | None:
        """The neurons of a site, at its positions `kept`; None where it reads no vectors."""
        if site not in self.inputs:
            self.inputs.clear()
            self.inputs[site] = read_inputs(self.loaded.model, self.windows, [site]).get(site)
        vectors = self.inputs[site]
        if vectors is None:
            return None
        return NeuronControl(vectors if kept is None else vectors[kept], first)


def read_text(loaded: Loaded, name: str, data: RoundDataModule, config: DictConfig) -> Text:
    """Read windows spread evenly over the split; padding is cut off.

    Raises:
        UserError: If the model has no codes, the site is unknown, or the data has no states.
    """
    _check_machine(data, name, config)
    total = data.num_eval_windows(config.split)
    count = min(config.sequences, total)
    numbers = np.arange(count) * total // count
    windows = []
    for part in np.array_split(numbers, -(-count // data.eval_batch_size)):
        batch = data.eval_windows(config.split, part)
        windows += [rows.tokens for rows in without_padding(*batch)]
    if not windows:
        raise UserError(
            f"sequences={config.sequences}: none of them has a scored target; give more"
        )
    if not read(loaded.model, [windows[0][:1]]).sites:
        raise UserError(
            f"checkpoint={config.checkpoint}: nothing in this model is discrete; "
            "give one of a model with codes, such as model=ziggurat"
        )
    reading = read(loaded.model, windows)
    if config.site is not None:
        reading = replace(reading, sites=dict([code_views.site_of(reading, config.site)]))
    if not isinstance(data, FSMDataModule):
        return Text(loaded, windows, reading)
    machine, seq_len = data.machine, windows[0].shape[1]
    states = machine.align(data.eval_drawn(config.split).states[numbers], seq_len).reshape(-1)
    return Text(loaded, windows, reading, states, np.tile(machine.phases(seq_len), len(numbers)))


def _check_machine(data: RoundDataModule, name: str, config: DictConfig) -> None:
    """Refuse keys about states where there are none."""
    key = "states" if config.states else "phase"
    if isinstance(data, FSMDataModule):
        digits = data.machine.digits_per_state
        if config.phase is not None and config.phase >= digits:
            raise UserError(f"phase={config.phase}: a state has the digits 0 to {digits - 1}")
    elif config.states or config.phase is not None:
        raise UserError(f"{key}={config[key]}: data={name} has no states; only data=fsm has")


def show_tables(text: Text, config: DictConfig) -> dict[str, Any]:
    """The commonest codes of every book with the strings they stand for."""
    table = bucket_table(text.reading, text.loaded.tokenizer, step=text.loaded.step)
    write(render(table, top_buckets=config.top))
    return json.loads(table.to_json())


def find_pattern(text: Text, config: DictConfig) -> dict[str, Any]:
    """Codes that fire where the pattern matches, beside neurons."""
    pattern = compile_pattern(config.pattern)
    marked = matched_tokens(text.reading, text.loaded.tokenizer, pattern)
    if config.phase is not None:
        marked &= text.phases == config.phase
    if not marked.any():
        raise UserError(
            f"pattern={config.pattern}: it matches none of the {len(marked):,} tokens read; "
            "widen it, or read more with sequences="
        )
    matches = search_codes(text.reading, marked, most=config.top, control=text.neurons)
    number = int(marked.sum())
    write(
        search_text.matches_text(matches, f"{config.pattern}: {number:,} of {len(marked):,} tokens")
    )
    return {
        "pattern": config.pattern,
        "phase": config.phase,
        "tokens": number,
        "codes": [asdict(match) for match in matches],
    }


def show_code(text: Text, config: DictConfig) -> dict[str, Any]:
    """Contexts of one code, and the codes of its book that lie nearest."""
    name, site = code_views.site_of(text.reading, config.site)
    code_views.check_book(name, site, config.level, config.code)
    where = code_views.firing_positions(site, config.level, config.code)
    found = code_views.contexts(text.reading, site, where, text.loaded.tokenizer)
    title = f"{name} level {config.level} code {config.code}: fires at {len(where):,} of"
    write(search_text.contexts_text(found, f"{title} {len(site.last):,} positions"))
    book = text.loaded.model.codebooks().get(name)
    similar = []
    if book is not None:
        similar = code_views.similar_codes(book.codes[config.level], config.code, most=config.top)
        write(search_text.similar_text(similar))
    return {
        "site": name,
        "level": config.level,
        "code": config.code,
        "positions": len(where),
        "contexts": [asdict(context) for context in found],
        "similar": similar,
    }


def show_token(text: Text, config: DictConfig) -> dict[str, Any]:
    """Codes that fire on one token."""
    token = code_views.token_id(text.loaded.tokenizer, config.token)
    number = int((text.reading.tokens == token).sum())
    if number == 0:
        raise UserError(f"token={config.token}: none of the tokens read; give another one")
    found = code_views.codes_of_token(text.reading, token, most=config.top)
    write(search_text.token_text(found, f"token {config.token!r}: {number:,} times"))
    codes = [asdict(code) for code in found]
    return {"token": config.token, "id": token, "tokens": number, "codes": codes}


def find_topic(text: Text, config: DictConfig) -> dict[str, Any]:
    """Codes that fire all over sequences with a keyword."""
    words = [str(word) for word in config.topic]
    on = topic_sequences(text.reading, text.loaded.tokenizer, words)
    [found] = topic_codes(text.reading, [on], min_share=config.topic_share, most=config.top)
    number = int(on.sum())
    write(
        search_text.topics_text(found, f"{', '.join(words)}: {number:,} of {len(on):,} sequences")
    )
    return {"keywords": words, "sequences": number, "codes": [asdict(code) for code in found]}


def find_states(text: Text, config: DictConfig) -> dict[str, Any]:
    """The machine's automatic mode: codes of states, and of states and the next digit."""
    assert text.states is not None
    assert text.phases is not None
    states = state_codes.state_labels(text.states, text.phases)
    pairs, names = state_codes.pair_labels(text.states, text.phases, text.reading.tokens)
    last = int(text.states.max()) + 1
    return {
        "states": _find_labels(text, states, [str(state) for state in range(last)], "states"),
        "pairs": _find_labels(text, pairs, [f"{s}+{d}" for s, d in names], "state-plus-digit"),
    }


def _find_labels(text: Text, labels: np.ndarray, names: list[str], what: str) -> dict[str, Any]:
    """How well codes tell labels of tokens (N,); nothing where no site ends on a labelled token."""
    books = state_codes.label_codes(text.reading, labels, len(names))
    if not books:
        write(f"{what}: no site has a position that ends there\n")
        return {}
    best = state_codes.best_book(books)
    neurons = state_codes.label_neurons(
        text.reading, labels, best, lambda kept, first: text.neurons(best.site, first, kept)
    )
    beside = {} if neurons is None else state_codes.neuron_figures(best, neurons)
    title = f"{what}: {len(names)}, codes chosen on one half, figures of the other; * the best book"
    write(search_text.labels_text(books, best, beside, title))
    return {
        "best": state_codes.figures(best) | beside,
        "books": [state_codes.figures(book) for book in books],
        "codes": [
            {**asdict(code), "label": names[code.label]} | _neuron_entry(neurons, index)
            for index, code in enumerate(best.codes)
        ],
    }


def _neuron_entry(neurons: list[Neuron | None] | None, index: int) -> dict[str, Any]:
    neuron = None if neurons is None else neurons[index]
    return {"neuron": None if neuron is None else asdict(neuron)}
