"""Are clusters of neurons more than families of clones? Asked when the run is done."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from lightning import Callback, Trainer

from callbacks.arguments import at_least_one
from callbacks.run_folder import save_artifact
from callbacks.undisturbed import undisturbed
from callbacks.validation_part import validation_part
from crystalline.errors import UserError
from crystalline.files import finite
from crystalline.interpret.neuron_clusters import study
from crystalline.interpret.reading import read

log = logging.getLogger(__name__)


class NeuronClusters(Callback):
    """After the test, on the weights that were tested: `clusters.json`, and `clusters/...` figures.

    The figures of `<field>/<name>` are those of as many clusters as there were founders; the file
    has those of each distance too. Models without parts that grow have none. Rank 0 works alone.

    Args:
        positions: Validation tokens that are read, in whole windows.
        distances: At which fields are cut into clusters, in units of their neurons' positions.
        permutations: Of the test.
        seed: Of the permutations.

    Raises:
        UserError: If a number is out of range.
    """

    def __init__(
        self, positions: int, distances: Sequence[float], permutations: int, seed: int
    ) -> None:
        at_least_one("neuron_clusters", positions=positions, permutations=permutations)
        if any(distance <= 0 for distance in distances):
            raise UserError("callbacks.neuron_clusters.distances: give numbers above 0")
        self.positions = positions
        self.distances = list(distances)
        self.permutations = permutations
        self.seed = seed
        self.figures: dict[str, float] = {}
        """Of the summary."""

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        census = pl_module.model.census() if trainer.is_global_zero else {}
        if not census:
            return
        with undisturbed(pl_module):
            part = validation_part(trainer, pl_module, self.positions)
            reading = read(pl_module.model, [tokens for tokens, _ in part])
        found, table = study(census, reading, self.distances, self.permutations, self.seed)
        self.figures = {
            f"clusters/{site}/{name}": value
            for site, cuts in found.items()
            for name, value in cuts["founders"].items()
        }
        save_artifact(trainer, "clusters.json", json.dumps(finite(found), indent=1))
        log.info("clusters of neurons:\n%s", table)
