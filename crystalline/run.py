"""Train, validate and test a model: `python -m crystalline.run model=ziggurat data=lovecraft`.

One screen: compose, build, fit, test, sum up. With `-m` the same once for every combination.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def train(config: DictConfig) -> dict[str, Any]:
    """Do what the config says; the run folder's `summary.json`, as a dictionary.

    Raises:
        UserError: For what the user can mend: missing corpus, devices, checkpoint, divergence.
    """
    from crystalline import distributed
    from crystalline.experiment import Experiment
    from crystalline.resume import resumed
    from crystalline.summary import read_summary

    config, origin = resumed(config)
    if distributed.wants_launch(config):
        distributed.launch(config, origin)
        return read_summary(Path(config.paths.run_dir))
    return Experiment(config, origin).run()


def main() -> None:
    from crystalline.command import run

    run(train, command="run")


if __name__ == "__main__":
    main()
