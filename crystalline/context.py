"""What context gives a model: loss by the tokens seen, and by what of them training had."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalline.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

SPLITS = ("val", "test")

log = logging.getLogger(__name__)


def context(config: DictConfig) -> dict[str, Any]:
    """Write two tables to standard output, the numbers to `output` and a picture beside it.

    Raises:
        UserError: For a bad key or checkpoint, or a corpus that cannot be measured.
    """
    check(config)
    from crystalline import context_reading, context_tables
    from crystalline.files import finite, run_folder, write_atomically
    from crystalline.generate import open_checkpoint, write

    found = context_reading.read_context(open_checkpoint(config), config)
    write(context_tables.tables(found))
    output = Path(config.output or run_folder(config.checkpoint) / "context.json")
    content = json.dumps(finite(found), indent=1, ensure_ascii=False)
    write_atomically(output, content + "\n")
    write_atomically(output.with_suffix(".png"), context_tables.picture(found))
    log.info("written to %s", output)
    return found


def check(config: DictConfig) -> None:
    """Refuse keys out of range.

    Raises:
        UserError: If there are any.
    """
    from omegaconf import ListConfig

    from crystalline.generate import number

    if config.split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}, got {config.split!r}")
    least = {"targets": 1, "longest_match": 0, "ngram_tokens": 1, "batch_size": 1, "seed": 0}
    for key, value in least.items():
        if number(config, key, int) < value:
            raise UserError(f"{key}={config[key]}: give {value} or more")
    windows = config.windows
    if not isinstance(windows, ListConfig) or not windows or not all(map(_is_length, windows)):
        raise UserError(f"windows={windows}: give whole numbers from 1 on, such as [1,8,64]")


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def main() -> None:
    from crystalline.command import run

    run(context, command="context", config_name="context")


if __name__ == "__main__":
    main()
