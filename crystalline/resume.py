"""Going on with a run: the config comes from the checkpoint, the run folder stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from crystalline.errors import UserError
from crystalline.summary import Origin, origin

_MAY_CHANGE = ("trainer", "logger", "paths")


def resumed(config: DictConfig) -> tuple[DictConfig, Origin]:
    """The config to run, as composed or, with `ckpt_path`, the checkpoint's; and who asked for it.

    Values that depend on this machine and folder (`paths`) are always the present ones. Overrides
    of `trainer.*`, `logger` and `paths` are applied to the checkpoint's config.

    Raises:
        UserError: If anything else is overridden, or the checkpoint cannot be read.
    """
    if config.ckpt_path is None:
        with open_dict(config):
            config.paths.run_dir = str(config.paths.run_dir)
        return config, origin()
    from crystalline.checkpoint import read

    path = Path(config.ckpt_path).absolute()
    entry = read(path)["crystalline"]
    saved = OmegaConf.create(entry["config"])
    assert isinstance(saved, DictConfig)
    for override in HydraConfig.get().overrides.task:
        _apply(override, config, saved)
    with open_dict(saved):
        saved.ckpt_path = str(path)
        saved.paths = OmegaConf.to_container(config.paths, resolve=True)
        if "mlflow" in saved.logger:
            saved.logger.mlflow.run_id = entry["mlflow_run_id"]
    return saved, replace(origin(), choices=entry["choices"], overrides=entry["overrides"])


def _apply(override: str, config: DictConfig, saved: DictConfig) -> None:
    key = override.lstrip("+~").split("=")[0]
    group = key.split(".")[0].split("@")[0]
    if group == "ckpt_path":
        return
    if group not in _MAY_CHANGE:
        raise UserError(
            f"{key} cannot change when a run is resumed: its config comes from the checkpoint; "
            f"only {', '.join(_MAY_CHANGE)} may be overridden (start a new run without ckpt_path)"
        )
    with open_dict(saved):
        node = OmegaConf.select(config, key)
        OmegaConf.update(saved, key, node, merge=False, force_add=True)
