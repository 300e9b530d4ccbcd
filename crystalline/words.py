"""Read a vocabulary-space model in words: its states, what parts add, word pairs, causal tests."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalline.errors import UserError
from crystalline.evaluate import SPLITS

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def words(config: DictConfig) -> dict[str, Any]:
    """Write tables to standard output, the numbers to `output` and pictures beside it.

    Raises:
        UserError: For a bad key or checkpoint, or a model whose states are not over words.
    """
    check(config)
    from crystalline import word_reading, word_tables
    from crystalline.files import finite, run_folder, write_atomically
    from crystalline.generate import open_checkpoint, write

    found, pictures = word_reading.read_words(open_checkpoint(config), config)
    write(word_tables.tables(found))
    output = Path(config.output or run_folder(config.checkpoint) / "words.json")
    content = json.dumps(finite(found), indent=1, ensure_ascii=False)
    write_atomically(output, content + "\n")
    for name, picture in pictures.items():
        write_atomically(output.with_name(f"{output.stem}_{name}.png"), picture)
    log.info("written to %s", output)
    return found


def check(config: DictConfig) -> None:
    """Refuse keys out of range.

    Raises:
        UserError: If there are any.
    """
    from crystalline.generate import number

    if config.split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}, got {config.split!r}")
    least = {"sequences": 1, "bigrams": 0, "min_count": 1, "tests": 0, "test_tokens": 3, "top": 1}
    for key, value in least.items():
        if number(config, key, int) < value:
            raise UserError(f"{key}={config[key]}: give {value} or more")
    number(config, "seed", int)


def main() -> None:
    from crystalline.command import run

    run(words, command="words", config_name="words", text_keys=("text",))


if __name__ == "__main__":
    main()
