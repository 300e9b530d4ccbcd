"""The verdict on a run: its summary's figures beside the limits that its experiment has set."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, Trainer

from callbacks.run_folder import save_artifact
from crystalline.text_table import text_table
from crystalline.verdict import (
    judge,
    overall,
    read_limits,
    verdict_json,
    verdict_markdown,
    verdict_rows,
)

log = logging.getLogger(__name__)


class Verdict(Callback):
    """Writes `verdict.md` and `verdict.json` and shows the table, once the summary stands.

    Args:
        limits: By figure of `summary.json`; see `read_limits`. Without any there is no verdict.

    Raises:
        UserError: If a limit is none.
    """

    def __init__(self, limits: Mapping[str, Any]) -> None:
        self.limits = read_limits(limits, "callbacks.verdict.limits")

    def conclude(self, trainer: Trainer, summary: Mapping[str, Any]) -> None:
        """Called by the run on rank 0, after every other callback has given its figures."""
        if not self.limits:
            return
        judged = judge(self.limits, summary)
        save_artifact(trainer, "verdict.md", verdict_markdown(judged, "Verdict"))
        save_artifact(trainer, "verdict.json", json.dumps(verdict_json(judged), indent=1) + "\n")
        log.info("verdict: %s\n%s", overall(judged), text_table(verdict_rows(judged)))
