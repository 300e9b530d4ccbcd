"""Write a checkpoint's weights at lower precision, read them back, and say what that costs.

python -m crystalline.export checkpoint=<run>/checkpoints/best.ckpt precision=int8_rows

The file is read by every command that takes checkpoint=, but not resumed.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalline.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def export(config: DictConfig) -> dict[str, Any]:
    """Write `output`; sizes in bytes, and scores of the split before and after.

    Raises:
        UserError: For a bad key or checkpoint, or a corpus that the checkpoint cannot read.
    """
    from crystalline.evaluate import SPLITS

    if config.split is not None and config.split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}, null, got {config.split!r}")
    import crystalline
    from crystalline.evaluation import data_of, score
    from crystalline.explain import suggest
    from crystalline.export.container import PRECISIONS, write
    from crystalline.files import checkpoint_in
    from crystalline.generate import open_checkpoint

    if config.precision not in PRECISIONS:
        raise UserError(
            f"precision: no {config.precision!r}{suggest(config.precision, PRECISIONS)}"
        )
    before = open_checkpoint(config)
    source = checkpoint_in(str(config.checkpoint))
    output = Path(config.output or source.with_suffix(f".{config.precision}"))
    if output.resolve() == source.resolve():
        raise UserError("output: this is the checkpoint itself; name another file")
    write(output, before.checkpoint, before.step, before.model, config.precision)
    weights = sum(p.numel() * p.element_size() for p in before.model.parameters())
    found: dict[str, Any] = {"weights_bytes": weights, "export_bytes": output.stat().st_size}
    log.info("%s: %d bytes of weights in %d", output, weights, found["export_bytes"])
    if config.split is not None:
        after = crystalline.load(output)
        after.model.to(next(before.model.parameters()).device)
        data = data_of(before, config)
        for when, loaded in (("before", before), ("after", after)):
            scores = score(loaded, data, config.split)
            found |= {f"{when}/{name}": scores[name] for name in ("loss", "bpb")}
        for name in ("loss", "bpb"):
            if found[f"before/{name}"] is not None:
                old, new = found[f"before/{name}"], found[f"after/{name}"]
                log.info("%s/%s %.5f -> %.5f (%+.5f)", config.split, name, old, new, new - old)
    return found


def main() -> None:
    from crystalline.command import run

    run(export, command="export", config_name="export")


if __name__ == "__main__":
    main()
