"""Write a checkpoint as a .crystal file at a chosen precision, and say what that costs.

python -m crystalline.export checkpoint=<run>/checkpoints/best.ckpt precision=int8_rows

The file is read by every command that takes checkpoint=, but not resumed, and by the C runtime.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalline.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from crystalline.checkpoint import Loaded
    from crystalline.export.options import Options

log = logging.getLogger(__name__)


def export(config: DictConfig) -> dict[str, Any]:
    """Write `output`; the figures that are said.

    Raises:
        UserError: For a bad key or checkpoint, or a corpus that the checkpoint cannot read.
    """
    from crystalline.export.occurring import occurring
    from crystalline.export.options import Options
    from crystalline.export.publishing import published
    from crystalline.files import checkpoint_in, write_atomically
    from crystalline.generate import open_checkpoint

    options = Options.of(config)
    loaded = open_checkpoint(config)
    source = checkpoint_in(str(config.checkpoint))
    outputs = _outputs(config, options, source)
    prune = None if config.prune is None else str(config.prune)
    ids = None if prune is None else occurring(prune, loaded, config)
    if options.layout == "crystal":
        found = _write(options, loaded, ids, source, outputs, config)
    else:
        [(precision, output)] = outputs.items()
        model = loaded.model.for_export()
        content = published(model, options.layout, precision, ids)  # type: ignore[arg-type]
        write_atomically(output, content)
        log.info("%s: %d bytes", output, len(content))
        found = {"export_bytes": len(content)}
    _runtime(options, list(outputs.values()))
    return found


def _outputs(config: DictConfig, options: Options, source: Path) -> dict[str, Path]:
    """The file of each precision.

    Raises:
        UserError: If it is the checkpoint itself.
    """
    suffix = "crystal" if options.layout == "crystal" else f"{options.layout}.crystal"
    names = {p: f"{source.stem}.{p}.{suffix}" for p in options.precisions}
    if options.compared:
        folder = Path(config.output or source.parent)
        return {precision: folder / name for precision, name in names.items()}
    [(precision, name)] = names.items()
    output = Path(config.output or source.with_name(name))
    if output.resolve() == source.resolve():
        raise UserError("output: this is the checkpoint itself; name another file")
    return {precision: output}


def _write(
    options: Options,
    loaded: Loaded,
    ids: set[int] | None,
    source: Path,
    outputs: dict[str, Path],
    config: DictConfig,
) -> dict[str, Any]:
    """Write the files, and what they cost: to the log, and beside them where all are compared."""
    from crystalline.checkpoint import sha256
    from crystalline.export.container import write
    from crystalline.export.fitting import fitted
    from crystalline.export.model_file import Rounding, with_weights, without_weights
    from crystalline.export.report import describe, measured, save

    exact = fitted(loaded, ids, str(source))
    digest = sha256(source)
    model = exact.model
    frame = without_weights(model, exact.tokenizer, exact.checkpoint, exact.step, digest)
    for precision, output in outputs.items():
        write(output, with_weights(frame, model, options.rounding(precision)))
        log.info("%s: %d bytes", output, output.stat().st_size)
    full = with_weights(frame, model, Rounding()).num_bytes
    figures = measured(exact, full, outputs, options.split, config)
    log.info("%s", describe(figures["rows"]))
    found = {"source_sha256": digest, "steps": exact.step, **figures}
    if options.compared:
        save(next(iter(outputs.values())).parent / f"{source.stem}.precisions", found)
    return found


def _runtime(options: Options, outputs: list[Path]) -> None:
    """What the C runtime is asked for."""
    if options.target == "c_source":
        from crystalline.export.runtime.c_source import write_c_source

        [output] = outputs
        log.info("%s", write_c_source(output, output.with_name(f"{output.stem}_source")))
    if options.build:
        from crystalline.export.runtime.build import build

        log.info("%s", build(outputs[0].parent / "runtime"))


def main() -> None:
    from crystalline.command import run

    run(export, command="export", config_name="export", text_keys=("only",))


if __name__ == "__main__":
    main()
