"""Read the codes of a checkpoint: what each stands for, and which tell a pattern or a topic."""

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


def search(config: DictConfig) -> dict[str, Any]:
    """Write what was found to standard output and to `output`; what was written.

    Raises:
        UserError: For a bad key, checkpoint or pattern, or a model without codes.
    """
    check(config)
    from crystalline import searching
    from crystalline.evaluation import data_of, name_of
    from crystalline.files import run_folder, write_atomically
    from crystalline.generate import open_checkpoint

    loaded = open_checkpoint(config)
    data, name = data_of(loaded, config), name_of(loaded, config)
    text = searching.read_text(loaded, name, data, config)
    found: dict[str, Any] = {
        "checkpoint": str(config.checkpoint),
        "steps": loaded.step,
        "data": name,
        "data_fingerprint": data.fingerprint,
        "split": config.split,
        "sequences": sum(len(windows) for windows in text.windows),
        "tokens": len(text.reading.tokens),
    }
    views = {
        "pattern": searching.find_pattern,
        "code": searching.show_code,
        "token": searching.show_token,
        "topic": searching.find_topic,
        "states": searching.find_states,
    }
    asked = {key: view for key, view in views.items() if is_asked(config, key)}
    for key, view in (asked or {"tables": searching.show_tables}).items():
        found[key] = view(text, config)
    output = Path(config.output or run_folder(config.checkpoint) / "search.json")
    write_atomically(output, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    log.info("written to %s", output)
    return found


def check(config: DictConfig) -> None:
    """Refuse keys that no text could answer.

    Raises:
        UserError: If a key is out of range.
    """
    from crystalline.generate import number
    from crystalline.interpret.code_search import compile_pattern

    if config.split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}, got {config.split!r}")
    for key, least in {"sequences": 2, "top": 1, "level": 0, "code": 0, "phase": 0}.items():
        if config[key] is not None and number(config, key, int) < least:
            raise UserError(f"{key}={config[key]}: give {least} or more")
    if not 0 <= number(config, "topic_share", float) < 1:
        raise UserError(f"topic_share={config.topic_share}: give a share from 0 to below 1")
    if not isinstance(config.states, bool):
        raise UserError(f"states={config.states}: give true or false")
    if config.topic is not None and (isinstance(config.topic, str) or not config.topic):
        raise UserError(f"topic={config.topic}: give words in brackets, such as [dragon,dragons]")
    if config.phase is not None and config.pattern is None:
        raise UserError(f"phase={config.phase} chooses among matches; give a pattern too")
    if config.pattern is not None:
        compile_pattern(config.pattern)


def is_asked(config: DictConfig, key: str) -> bool:
    """Whether a key was given; code 0 and phase 0 are."""
    return config[key] is not None and config[key] is not False


def main() -> None:
    from crystalline.command import run

    run(search, command="search", config_name="search", text_keys=("pattern", "token"))


if __name__ == "__main__":
    main()
