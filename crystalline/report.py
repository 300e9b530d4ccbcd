"""Every results table and picture in docs/results, rebuilt from docs/results/data/*.jsonl.

python -m crystalline.report                                        # all experiments
python -m crystalline.report name=placements add=<run or sweep folder> row=replace_mlp
"""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from crystalline.command import run
from crystalline.errors import UserError
from crystalline.result_moments import moments
from crystalline.result_pages import append, rebuild, summaries_in

_log = logging.getLogger(__name__)


def report(config: DictConfig) -> None:
    """Add summaries to an experiment's data, if asked to, and rebuild its page or all pages."""
    folder = Path(config.results_dir)
    data_folder = folder / "data"
    if config.add is not None:
        if config.name is None:
            raise UserError(
                "add= needs the experiment that the runs belong to; add name=<experiment>"
            )
        data = data_folder / f"{config.name}.jsonl"
        new = _add(data, Path(config.add), config.row, config.at)
        _log.info("%s: %d runs added", data, new)
    for data in _chosen(data_folder, config.name):
        page = folder / f"{data.stem}.md"
        rebuild(data, page, folder / f"{data.stem}.png")
        _log.info("%s", page)


def _add(data: Path, folder: Path, row: str | None, at: list[int] | None) -> int:
    """How many lines were new."""
    summaries = summaries_in(folder)
    if at is None:
        return append(data, summaries, row)
    if len(summaries) != 1 or row is None:
        raise UserError("at= is about one run and needs the name of its rows: add=<run> row=<name>")
    parts = moments(folder, summaries[0], at)
    return sum(append(data, [part], f"{row}, round {part['steps']}") for part in parts)


def _chosen(folder: Path, name: str | None) -> list[Path]:
    known = sorted(folder.glob("*.jsonl"))
    chosen = [path for path in known if name in (None, path.stem)]
    if not chosen:
        names = ", ".join(path.stem for path in known) or "none yet"
        raise UserError(
            f"{folder} has no {name or '*'}.jsonl (there: {names}); add=<run folder> makes one"
        )
    return chosen


def main() -> None:
    run(report, command="report", config_name="report", text_keys=("row",))


if __name__ == "__main__":
    main()
