"""The way from `crystalline.evaluate` into the harness: checks first, heavy imports after."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from crystalline.harness.options import Options

if TYPE_CHECKING:
    from omegaconf import DictConfig


def evaluate_tasks(config: DictConfig) -> dict[str, Any]:
    """Write the scores to `output` and to the log; what was written.

    Raises:
        UserError: For a bad key, without the extra, or for a model or task that cannot be opened.
    """
    options = Options.of(config)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # lm_eval's bars; read when tqdm is imported
    from crystalline.harness.evaluation import evaluate

    return evaluate(config, options)
