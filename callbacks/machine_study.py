"""What the codes of a model of the state machine stand for and cause, measured when it is done."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks.arguments import at_least_one
from callbacks.run_folder import save_artifact
from callbacks.undisturbed import undisturbed
from crystalline.errors import UserError
from crystalline.interpret.machine_study import study
from crystalline.tradeoff import heat_png
from datamodules.fsm import FSMDataModule


class MachineStudy(Callback):
    """After the test, on the weights that were tested: `states.json`, and `study/...` figures.

    Two pictures: `state_codes.png`, which codes of the best book each state has, and
    `interventions.png`, what patching every set of sites does.

    Args:
        sequences: Validation sequences whose codes are read.
        samples: Sequences that the model writes.
        pairs: Pairs of states whose codes are exchanged.
        parts: Beginnings of names of sites whose effect, all below one patched, is a figure too.
        seed: Of samples and pairs.

    Raises:
        UserError: If a number is below 1, or the data is no machine.
    """

    def __init__(
        self, sequences: int, samples: int, pairs: int, parts: Sequence[str], seed: int
    ) -> None:
        at_least_one("machine_study", sequences=sequences, samples=samples, pairs=pairs)
        self.sequences, self.samples, self.pairs, self.seed = sequences, samples, pairs, seed
        self.parts = list(parts)
        self.figures: dict[str, float] = {}
        """Of the summary."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(trainer.datamodule, FSMDataModule):  # type: ignore[attr-defined]
            raise UserError("callbacks.machine_study: only data=fsm has states; leave it out")

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        walks = data.eval_drawn("val")
        with undisturbed(pl_module):
            found = study(
                pl_module.model,
                data.machine,
                walks.tokens[: self.sequences],
                walks.states[: self.sequences],
                samples=self.samples,
                pairs=self.pairs,
                seed=self.seed,
                parts=self.parts,
            )
        self.figures = {f"study/{name}": value for name, value in found.figures.items()}
        save_artifact(trainer, "states.json", json.dumps(found.report, indent=1))
        if found.state_codes is not None:
            labels = ("codes, paired ones first", "state", "share of the state's positions")
            picture = heat_png(found.state_codes.tolist(), None, None, labels)
            save_artifact(trainer, "state_codes.png", picture)
        tables = {k: v for k, v in found.report.items() if k.startswith("patching/")}
        if tables:
            save_artifact(trainer, "interventions.png", _patching_png(tables))


def _patching_png(tables: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> bytes:
    """Every set of sites, and how far its patch moves the prediction to the other state's."""
    sets = list(dict.fromkeys(name for table in tables.values() for name in table))
    found = [[table.get(name, {}).get("effect") for table in tables.values()] for name in sets]
    effects = [[math.nan if effect is None else effect for effect in row] for row in found]
    kinds = [name.partition("/")[2].replace("_", " ") for name in tables]
    labels = ("what is patched", "sites", "intervention_effect: 0 as before, 1 as the other state")
    return heat_png(effects, sets, kinds, labels)
