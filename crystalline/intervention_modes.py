"""The modes of `crystalline.intervene`: each takes a session and gives a table and its numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crystalline.contract import ModelOutput
from crystalline.errors import UserError
from crystalline.evaluation import name_of
from crystalline.generate import number, number_or_null
from crystalline.interpret import steering
from crystalline.interpret.effects import composability, jsd, specificity
from crystalline.interpret.interventions import activations, clamp, merge, patch
from crystalline.interpret.machine_patching import MachinePatching
from crystalline.interpret.sites import site_named
from crystalline.interpret.topic_steering import Judge, steer_topics, steering_figures
from crystalline.intervention_session import Session
from crystalline.metrics.intervention_effect import InterventionEffect
from crystalline.text_table import text_table
from datamodules.fsm import FSMDataModule


class Found(NamedTuple):
    """What a mode has to say."""

    table: str
    figures: dict[str, Any]


def activate(session: Session) -> Found:
    """Codes put at some positions of a prompt."""
    tokens, codes = session.prompt("prompt"), session.codes()
    clean, at = session.run(tokens), session.positions(tokens.shape[1])
    places = {code.site: session.places(clean, code.site, at) for code in codes}
    edits = merge(*activations(session.sites, codes, places))
    return _changes(session, tokens, clean, session.run(tokens, edits), at)


def copy(session: Session) -> Found:
    """The codes of another text, at the same tokens."""
    tokens, source_tokens = session.prompt("prompt"), session.prompt("source")
    at = session.positions(min(tokens.shape[1], source_tokens.shape[1]))
    clean, source = session.run(tokens), session.run(source_tokens)
    named = session.config.site
    both = [name for name in clean.codes if name in source.codes]
    names = both if named is None else [site_named(session.sites, named).name]
    if not names:
        raise UserError("site: no site of this model has a position in both texts")
    edits = {}
    for name in names:
        to, origin = (session.places(run, name, at) for run in (clean, source))
        to = to.masked_fill(origin < 0, -1)  # a position that the source has not finished stays
        edits[name] = patch(session.sites[name], source.codes[name].indices, to, origin.clamp(0))
    patched = session.run(tokens, edits)
    effect = InterventionEffect().to(session.device)
    effect.update(*(run.logits[:, at] for run in (patched, clean, source)))
    value = float(effect.compute())
    table, figures = _changes(session, tokens, clean, patched, at)
    line = f"intervention_effect {value:.4f} (1: as after the source, 0: as before)"
    return Found(f"{table}\n{line}", {"intervention_effect": value, **figures})


def deactivate(session: Session) -> Found:
    """Each code banned in turn while the validation split is read."""
    rows = []
    for code in session.codes():
        found = specificity(session.model, session.windows(), session.sites[code.site], code)
        ratios = {"kl_ratio": found.kl_ratio, "loss_ratio": found.loss_ratio}
        rows.append({**code._asdict(), **asdict(found), **ratios})
    legend = (
        "at tokens where the code fired, and at the rest: mean KL(clean || ablated) and rise of "
        "the loss, nats"
    )
    return Found(f"{text_table(rows)}\n{legend}", {"specificity": rows})


def hold(session: Session) -> Found:
    """A continuation under clamped codes beside one without, drawn by the same numbers."""
    tokens, codes = session.prompt("prompt"), session.codes()
    edits = clamp(session.sites, codes)
    divergence = jsd(session.run(tokens).logits, session.run(tokens, edits).logits)[0].tolist()
    options = {**session.sampling(), "num_samples": 1}
    decode = session.loaded.tokenizer.decode
    prompts, arms = tokens.tolist(), [(), codes]
    found = steering.continuations(session.model, prompts, session.sites, arms, **options)
    base, held = (decode(texts[0]) for texts in found)
    mean = sum(divergence) / len(divergence)
    lines = [*_columns(base, held), f"JSD over the prompt {mean:.4f} nats (at most 0.6931)"]
    return Found("\n".join(lines), {"base": base, "clamped": held, "jsd": divergence})


def compose(session: Session) -> Found:
    """Codes together against the sum of each alone."""
    tokens, codes = session.prompt("prompt"), session.codes(least=2)
    clean, at = session.run(tokens), session.positions(tokens.shape[1])
    places = {code.site: session.places(clean, code.site, at) for code in codes}
    edits = activations(session.sites, codes, places)
    found = asdict(composability(session.model, tokens, edits, torch.tensor(at)))
    alone = [
        {
            **code._asdict(),
            "jsd": float(jsd(session.run(tokens, edit).logits, clean.logits)[:, at].mean()),
        }
        for code, edit in zip(codes, edits, strict=True)
    ]
    return Found(
        f"{text_table(alone)}\n\n{text_table([found])}", {"composability": found, "alone": alone}
    )


def states(session: Session) -> Found:
    """The machine's states, and states with a digit, patched at every set of sites."""
    if not isinstance(session.data, FSMDataModule):
        raise UserError(
            f"do=states: data={name_of(session.loaded, session.config)} is no machine; "
            "name a checkpoint of data=fsm"
        )
    pairs = number_or_null(session.config, "pairs", int)
    if pairs is not None and pairs < 1:
        raise UserError(f"pairs={pairs}: give 1 or more, or null for all")
    seed = number(session.config, "seed", int)
    figures: dict[str, Any] = {}
    tables = []
    for feature, with_digit in {"state": False, "state_and_digit": True}.items():
        protocol = MachinePatching(session.model, session.data.machine, with_digit=with_digit)
        if not with_digit:
            figures["first_transition"] = protocol.first_transition()
            figures["left_out"] = protocol.left_out
        for longest in (protocol.longest_prefix, 0):
            found = protocol.run(pairs=pairs, longest_prefix=longest, seed=seed)
            rows = [
                {"sites": name, "intervention_effect": row.effect, "normalised": row.normalised}
                | ({} if with_digit else {"success": row.success})
                for name, row in found.items()
            ]
            figures[f"{feature}/prefix_{longest}"] = rows
            tables.append(f"{feature}, prefix of at most {longest} states\n{text_table(rows)}\n")
    tables.append(f"first transition {100 * figures['first_transition']:.1f} %")
    return Found("\n".join(tables), figures)


def steer(session: Session) -> Found:
    """Texts under clamped codes, without them, and under other codes of the same usage."""
    options, baseline = session.sampling(), session.baseline()
    held = number_or_null(session.config, "held_tokens", int)
    texts = session.listed("prompts") or [session.config.prompt or ""]
    prompts = [session.opened(str(text)) for text in texts]
    context_length = session.model.context_length
    steering.check_held(held, prompts, options["max_new_tokens"], context_length)
    topics, counts = session.topics()
    found = steer_topics(
        session.model,
        session.loaded.tokenizer,
        topics,
        prompts,
        counts,
        judge=None if baseline is None else Judge(baseline.model, baseline.tokenizer),
        held_tokens=held,
        **options,
    )
    chosen = [
        {
            "topic": topic.name,
            "words": list(topic.words),
            "codes": [code._asdict() for code in topic.codes],
            "control": [code._asdict() for code in found.control[topic.name]],
        }
        for topic in topics
    ]
    figures = steering_figures(found.rows)
    return Found(
        text_table(found.rows), {"steering": found.rows, "topics": chosen, "figures": figures}
    )


MODES: dict[str, Callable[[Session], Found]] = {
    "activate": activate,
    "deactivate": deactivate,
    "clamp": hold,
    "patch": copy,
    "compose": compose,
    "steer": steer,
    "states": states,
}


def _changes(
    session: Session, tokens: Tensor, clean: ModelOutput, edited: ModelOutput, at: Sequence[int]
) -> Found:
    """The next-token distributions from the first edited token on."""
    divergence = jsd(clean.logits, edited.logits)[0].tolist()
    named = session.loaded.tokenizer.token_bytes
    likeliest = [
        [repr(named(int(best)).decode(errors="replace"))[1:-1] for best in run.logits[0].argmax(-1)]
        for run in (clean, edited)
    ]
    rows = [
        {
            "position": place,
            "token": repr(named(int(token)).decode(errors="replace"))[1:-1],
            "edited": place in at,
            "jsd": divergence[place],
            "likeliest": likeliest[0][place],
            "after the edit": likeliest[1][place],
        }
        for place, token in enumerate(tokens[0])
        if place >= min(at)
    ]
    return Found(text_table(rows), {"positions": rows})


def _columns(left: str, right: str, width: int = 44) -> list[str]:
    """Two texts side by side."""
    texts = {"without": left, "clamped": right}
    columns = [[head, *textwrap.wrap(repr(text)[1:-1], width)] for head, text in texts.items()]
    pairs = zip_longest(*columns, fillvalue="")
    return [f"{a:<{width}}  {b}".rstrip() for a, b in pairs]
