"""Results over seeds: `docs/results/data/<experiment>.jsonl` made into a table and a picture.

A line of the file is the `summary.json` of one run and the field "row", which names its table row.
A page's opening marker may name the columns it wants: `<!-- table: val/loss; dead codes -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from crystalline.errors import UserError
from crystalline.files import write_atomically
from crystalline.result_pictures import pictures
from crystalline.results import BITS, DEAD, markdown_table, number, score, shown
from crystalline.tradeoff import spread_png

BEGIN, END = "<!-- table -->", "<!-- /table -->"
_BEGIN = re.compile(r"<!--\s*table\s*(?::(?P<columns>.*?))?-->", re.DOTALL)
STUDIED = ("study/", "ablation/", "phase_gap")
"""Beginnings of the names of figures that become columns of their own."""
_ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:[^\s/'\"=,]+/)+")

Summary = dict[str, Any]


def summaries_in(folder: Path) -> list[Summary]:
    """The summaries of a run folder, or of all finished jobs of a sweep's folder.

    Raises:
        UserError: If there is none.
    """
    own = folder / "summary.json"
    found = [own] if own.is_file() else sorted(folder.glob("*/summary.json"))
    if not found:
        raise UserError(
            f"add={folder}: neither a run folder nor a sweep folder with a finished run"
            " (summary.json)"
        )
    return [_read_summary(path) for path in found]


def _read_summary(path: Path) -> Summary:
    """A summary with the overrides that began the run: a resumed one was called with others."""
    summary = json.loads(path.read_text(encoding="utf-8"))
    saved = path.parent / ".hydra" / "overrides.yaml"
    if saved.is_file():
        summary["overrides"] = yaml.safe_load(saved.read_text(encoding="utf-8"))
    return summary


def append(data: Path, summaries: Sequence[Summary], row: str | None) -> int:
    """Add summaries to an experiment's file, without absolute paths of the machine.

    Args:
        data: The `.jsonl` file; created when new.
        summaries: What `summaries_in` gave.
        row: The table row they belong to; None names it after the overrides, seed left out.

    Returns:
        How many were new: a line that is there already is not added again.
    """
    before = data.read_text(encoding="utf-8").splitlines() if data.exists() else []
    named = ({"row": row or row_name(summary), **summary} for summary in summaries)
    lines = [json.dumps(_portable(summary), ensure_ascii=False) for summary in named]
    new = [line for line in dict.fromkeys(lines) if line not in before]
    write_atomically(data, "".join(f"{line}\n" for line in [*before, *new]))
    return len(new)


def row_name(summary: Mapping[str, Any]) -> str:
    """A run's model and its overrides, without those that do not tell rows apart."""
    ignored = ("seed", "model", "data", "experiment", "trainer", "logger", "paths", "hydra")
    overrides = [str(text) for text in summary.get("overrides", [])]
    kept = [o for o in overrides if re.split(r"[.=]", o.lstrip("+"), maxsplit=1)[0] not in ignored]
    kept += [o for o in overrides if o.lstrip("+").startswith("model.")]
    model = summary.get("choices", {}).get("model", "")
    return ", ".join([*([model] if model else []), *kept]) or "run"


def rebuild(data: Path, page: Path, picture: Path) -> None:
    """Rewrite the part of `page` between the two markers, and `picture`, from `data`.

    A page that does not exist is made; without markers, the table goes to its end. Pictures that
    it asks for itself (`result_pictures`) are drawn too.

    Raises:
        UserError: If a line of `data` is no summary, a marker has no partner, or there is no
            column of a name; as of `pictures`.
    """
    summaries = read(data)
    rows = {name: [s for s in summaries if s["row"] == name] for name in _names(summaries)}
    unit = score(summaries)
    scores = {name: _values(runs, f"test/{unit}") for name, runs in rows.items()}
    scores = {name: values for name, values in scores.items() if values}
    name = page.stem.replace("_", " ")
    text = page.read_text(encoding="utf-8") if page.exists() else f"# {name}\n\n{BEGIN}\n{END}\n"
    begin = _BEGIN.search(text)
    wanted = [c.strip() for c in ((begin and begin["columns"]) or "").split(";") if c.strip()]
    try:
        block = table(summaries, wanted or None)
        if scores:
            block += f"\n![test/{unit} of every run, and the mean of each row]({picture.name})\n"
        text, drawn = pictures(_between_markers(text, block), summaries, page)
    except UserError as error:
        raise UserError(f"{page}: {error}") from None
    if scores:
        drawn[picture] = spread_png(scores, f"test/{unit}")
    for path, content in drawn.items():
        write_atomically(path, content)
    write_atomically(page, text)


def read(data: Path) -> list[Summary]:
    """The summaries of an experiment's file.

    Raises:
        UserError: If a line is not a JSON object with a field "row".
    """
    summaries = []
    for count, line in enumerate(data.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            summary = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{data}:{count}: not JSON ({error}); mend or delete the line"
            ) from None
        if not isinstance(summary, dict) or "row" not in summary:
            raise UserError(f'{data}:{count}: no field "row"; mend or delete the line')
        summaries.append(summary)
    return summaries


def table(summaries: Sequence[Summary], columns: Sequence[str] | None = None) -> str:
    """Markdown: a table for each edition of the data, and the commands that made the rows.

    Args:
        summaries: Of all runs.
        columns: What to show beside the row's name and the number of its runs: headers, or other
            figures of the summaries such as "val/accuracy"; None: all headers.

    Raises:
        UserError: If there is no column of a name.
    """
    fingerprints = list(dict.fromkeys(str(s.get("data_fingerprint", "")) for s in summaries))
    tables = []
    for fingerprint in fingerprints:
        same = [s for s in summaries if str(s.get("data_fingerprint", "")) == fingerprint]
        # Bits per byte of two editions cannot be compared.
        title = f"Data `{fingerprint}`:\n" if len(fingerprints) > 1 else None
        tables.append((title, *_one_table(same, columns or ())))
    known = list(dict.fromkeys(name for _, header, _ in tables for name in header[2:]))
    if unknown := [name for name in columns or () if name not in known]:
        raise UserError(f"no column {unknown[0]!r}; there are: {'; '.join(known)}")
    parts = []
    for title, header, body in tables:
        shown_columns = header if columns is None else [*header[:2], *columns]
        rows = [dict(zip(header, cells, strict=True)) for cells in body]
        cells = [[row.get(name, "-") for name in shown_columns] for row in rows]
        parts += [title] if title else []
        parts.append("\n".join(markdown_table(shown_columns, cells)) + "\n")
    return "\n".join([*parts, _commands(summaries)])


def _one_table(
    summaries: Sequence[Summary], asked: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of all columns, and of other figures that are asked for."""
    unit = score(summaries)
    header = ["row", "runs", f"val/{unit}", f"test/{unit}", "dead codes", "worst site"]
    rated = bool(_values(summaries, BITS))
    header += ["code bits a token"] * rated
    studied = list(dict.fromkeys(key for s in summaries for key in s if key.startswith(STUDIED)))
    header += [key.removeprefix("study/") for key in studied]
    header += ["tokens seen", "tokens/s", "parameters", "without codebooks"]
    others = [name for name in asked if name not in header and _values(summaries, name)]
    body = []
    for name in _names(summaries):
        runs = [s for s in summaries if s["row"] == name]
        worst = [max(sites) for s in runs if (sites := _dead_by_site(s))]
        cells = [name, str(len(runs))]
        cells += [spread(_values(runs, f"{split}/{unit}")) for split in ("val", "test")]
        cells += [shown(DEAD, _mean(_values(runs, DEAD)))]
        cells += [shown(DEAD, max(worst, default=None))]
        cells += [spread(_values(runs, key)) for key in [BITS] * rated + studied]
        for key in ("tokens_seen", "tokens_per_second", "parameters"):
            cells.append(shown(key, _mean(_values(runs, key))))
        without = _mean(_values(runs, "parameters_without_codebooks"))
        cells += [shown("parameters", without), *(spread(_values(runs, key)) for key in others)]
        body.append(cells)
    return [*header, *others], body


def spread(values: Sequence[float]) -> str:
    """Mean of the seeds, with the smallest and largest: "1.8460 (1.8441 to 1.8479)"."""
    if not values:
        return "-"
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.4f}"
    return f"{mean:.4f} ({min(values):.4f} to {max(values):.4f})"


def _commands(summaries: Sequence[Summary]) -> str:
    lines = ["Mean (smallest to largest) over the runs of a row. Each run's own line:", "", "```"]
    for name in _names(summaries):
        lines.append(f"# {name}")
        runs = [s for s in summaries if s["row"] == name]
        lines += dict.fromkeys(str(s.get("command", "")) for s in runs)
    devices = dict.fromkeys(str(s["device"]) for s in summaries if s.get("device"))
    versions = dict.fromkeys(
        f"{package} {version}"
        for s in summaries
        for package, version in s.get("versions", {}).items()
    )
    return "\n".join([*lines, "```", "", f"{'; '.join(devices)}; {', '.join(versions)}.", ""])


def _between_markers(text: str, block: str) -> str:
    begin, end = _BEGIN.search(text), text.find(END)
    if begin is None and end < 0:
        return f"{text.rstrip()}\n\n{BEGIN}\n{block}{END}\n"
    if begin is None or end < begin.end():
        raise UserError(f"the table needs both markers, {BEGIN} and below it {END}")
    return text[: begin.end()] + f"\n{block}" + text[end:]


def _names(summaries: Sequence[Summary]) -> list[str]:
    return list(dict.fromkeys(str(s["row"]) for s in summaries))


def _values(summaries: Sequence[Summary], key: str) -> list[float]:
    return [value for s in summaries if (value := number(s.get(key))) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _dead_by_site(summary: Mapping[str, Any]) -> list[float]:
    named = [summary[key] for key in summary if key.startswith(f"{DEAD}/")]
    return [value for v in named if (value := number(v)) is not None]


def _portable(value: Any) -> Any:
    """`value` with absolute paths in its strings cut to their last part."""
    if isinstance(value, str):
        return _ABSOLUTE.sub("", value)
    if isinstance(value, dict):
        return {key: _portable(entry) for key, entry in value.items()}
    return [_portable(entry) for entry in value] if isinstance(value, list) else value
