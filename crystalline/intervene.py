"""See what codes cause: activate, deactivate, clamp or patch them in a checkpoint's model.

do=activate    put codes into a prompt: next-token distributions before and after
do=deactivate  ban codes while validation text is read: what changes where they fired, and elsewhere
do=clamp       hold codes while text is generated, beside the text without them
do=patch       copy the codes of one text to another
do=compose     several codes together against the sum of each alone
do=steer       how often clamped codes make the model speak of a topic, and at what price
do=states      patch the states of the machine that the model was trained on (data=fsm)
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalline.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def intervene(config: DictConfig) -> dict[str, Any]:
    """Write a table to standard output and the numbers to `output`; what was written there.

    Raises:
        UserError: For a bad key or checkpoint, a site, level or code that does not exist.
    """
    from omegaconf import OmegaConf

    from crystalline.files import finite, run_folder, write_atomically
    from crystalline.generate import open_checkpoint, write
    from crystalline.intervention_modes import MODES
    from crystalline.intervention_session import Session

    if config.do not in MODES:
        raise UserError(f"do={config.do}: give one of {', '.join(MODES)}")
    session = Session(open_checkpoint(config), config)
    table, figures = MODES[config.do](session)
    asked: dict[str, Any] = {
        str(key): value
        for key, value in OmegaConf.to_container(config, resolve=False).items()  # type: ignore[union-attr]
        if key not in ("data", "paths", "output")
    }
    found = {**asked, "steps": session.loaded.step, **figures}
    output = Path(config.output or run_folder(config.checkpoint) / "intervene.json")
    write_atomically(output, json.dumps(finite(found), indent=2) + "\n")
    write(table + "\n")
    log.info("written to %s", output)
    return found


def main() -> None:
    from crystalline.command import run

    text = ("prompt", "source")
    run(intervene, command="intervene", config_name="intervene", text_keys=text)


if __name__ == "__main__":
    main()
