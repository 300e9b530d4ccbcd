"""What code search found, as tables to read."""

from __future__ import annotations

import json
from collections.abc import Sequence

from crystalline.interpret.code_search import MIN_PRECISION, MIN_RECALL, CodeMatch
from crystalline.interpret.code_views import Context, TokenCode
from crystalline.interpret.neurons import Neuron
from crystalline.interpret.state_codes import BookLabels
from crystalline.interpret.topics import TopicCode
from crystalline.metrics.code_precision import Score


def matches_text(matches: Sequence[CodeMatch], title: str) -> str:
    """Codes of a pattern."""
    if not matches:
        return (
            f"{title}\nno code has a recall above {MIN_RECALL} and a precision above "
            f"{MIN_PRECISION} on the first half\n"
        )
    header = ["site", "level", "code", "chosen p", "r", "reported p", "r", "fired", "neuron p", "r"]
    rows = [
        [
            *(match.site, str(match.level), str(match.code), *_pair(match.chosen)),
            *(*_pair(match.reported), f"{match.reported.fired:,}", *_neuron(match.neuron)),
        ]
        for match in matches
    ]
    return (
        f"{title}\n{_aligned([header, *rows])}\n"
        "p precision, r recall; chosen on the first half of the windows, reported on the second; "
        "neuron: the best coordinate\nthat the site reads at the chosen recall, on the second half "
        "too\n"
    )


def topics_text(codes: Sequence[TopicCode], title: str) -> str:
    """Topic codes."""
    if not codes:
        return f"{title}\nno code fires on enough of one such sequence; see topic_share\n"
    header = ["site", "level", "code", "share", "chosen AUC", "AUC", "on topic", "elsewhere"]
    rows = [
        [code.site, str(code.level), str(code.code)]
        + [
            f"{figure:.3f}"
            for figure in (code.share, code.chosen_auc, code.auc, code.on_topic, code.off_topic)
        ]
        for code in codes
    ]
    return (
        f"{title}\n{_aligned([header, *rows])}\n"
        "share: most of a topic sequence's tokens where it fires; AUC on the second half, 0.5 is "
        "chance; on topic, elsewhere:\nshare of sequences where it fires on more than 30 % of the "
        "tokens\n"
    )


def labels_text(
    books: Sequence[BookLabels], best: BookLabels, neurons: dict[str, float], title: str
) -> str:
    """How well each book tells labels; the best one is marked and has the neurons' figures."""
    header = ["site", "level", "precision", "neuron", "found", "p found", "neuron", "recall"]
    header += ["coverage", "matched", "AMI", "purity", "majority", "shuffled", "codes/label"]
    rows = []
    for book in books:
        mark, beside = (" *", neurons) if book is best else ("", {})
        figures = [book.code_precision, beside.get("neuron_precision"), book.code_found]
        figures += [book.found_precision, beside.get("neuron_found_precision")]
        figures += [book.code_recall, book.code_coverage, book.matched_accuracy, book.ami]
        figures += [book.purity, book.majority, book.shuffled_purity]
        shown = ["-" if figure is None else f"{figure:.3f}" for figure in figures]
        rows.append([book.site + mark, str(book.level), *shown, f"{book.codes_per_label:.2f}"])
    return f"{title}\n{_aligned([header, *rows])}\n"


def contexts_text(contexts: Sequence[Context], title: str) -> str:
    """Where a code fires: the position's text in brackets."""
    before = [json.dumps(context.before, ensure_ascii=False)[1:-1] for context in contexts]
    width = max((len(text) for text in before), default=0)
    lines = [
        f"  {text:>{width}}[{json.dumps(context.text, ensure_ascii=False)[1:-1]}]"
        + json.dumps(context.after, ensure_ascii=False)[1:-1]
        for text, context in zip(before, contexts, strict=True)
    ]
    return "\n".join([title, *lines]) + "\n"


def similar_text(similar: Sequence[tuple[int, float]]) -> str:
    """Codes near a code."""
    return (
        "similar codes: " + ", ".join(f"{code} ({cosine:.2f})" for code, cosine in similar) + "\n"
    )


def token_text(codes: Sequence[TokenCode], title: str) -> str:
    """Codes that fire on a token."""
    header = ["site", "level", "code", "count", "of the token", "of the code"]
    rows = [
        [
            *(code.site, str(code.level), str(code.code), f"{code.score.hits:,}"),
            *(f"{code.score.recall:.3f}", f"{code.score.precision:.3f}"),
        ]
        for code in codes
    ]
    return f"{title}\n{_aligned([header, *rows])}\n"


def _pair(score: Score) -> list[str]:
    return [f"{score.precision:.3f}", f"{score.recall:.3f}"]


def _neuron(neuron: Neuron | None) -> list[str]:
    return ["-", "-"] if neuron is None else _pair(neuron.reported)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first one to the left."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])]
            + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    )
