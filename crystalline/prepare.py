"""`python -m crystalline.prepare data=<name>`: download, tokenise and cache, without training."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

_logger = logging.getLogger(__name__)


def prepare(config: DictConfig) -> None:
    """Make everything that training would read first, and log what there is.

    Raises:
        UserError: If the corpus is neither here nor can be fetched, or is too short.
    """
    from crystalline.from_config import from_config

    data = from_config(config.data)
    data.prepare_data()
    data.setup("fit")
    _logger.info("\n".join(data.describe()))


def main() -> None:
    from crystalline.command import run

    run(prepare, command="prepare")


if __name__ == "__main__":
    main()
