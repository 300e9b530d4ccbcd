"""Score a checkpoint: loss, bits per byte, perplexity and codebook usage of a split; or tasks."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalline.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

SPLITS = ("val", "test", "train")

log = logging.getLogger(__name__)


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Write the scores to `output` and to the log; what was written.

    Raises:
        UserError: For a bad key or checkpoint, or a corpus that the checkpoint cannot read.
    """
    if config.harness is not None or config.hf_model is not None:
        from crystalline.harness.command import evaluate_tasks

        return evaluate_tasks(config)
    if config.split not in (*SPLITS, "all"):
        raise UserError(f"split must be one of {', '.join(SPLITS)}, all, got {config.split!r}")
    from crystalline.evaluation import data_of, name_of, score, table
    from crystalline.files import run_folder, write_atomically
    from crystalline.generate import open_checkpoint

    loaded = open_checkpoint(config)
    data = data_of(loaded, config)
    splits = SPLITS if config.split == "all" else (config.split,)
    scores = {split: score(loaded, data, split) for split in splits}
    found = {
        "checkpoint": str(config.checkpoint),
        "steps": loaded.step,
        "data": name_of(loaded, config),
        "data_fingerprint": data.fingerprint,
        **{f"{split}/{name}": value for split in splits for name, value in scores[split].items()},
    }
    output = Path(config.output or run_folder(config.checkpoint) / "evaluation.json")
    write_atomically(output, json.dumps(found, indent=2) + "\n")
    log.info("%s\nwritten to %s", table(scores), output)
    return found


def main() -> None:
    from crystalline.command import run

    run(evaluate, command="evaluate", config_name="evaluate")


if __name__ == "__main__":
    main()
