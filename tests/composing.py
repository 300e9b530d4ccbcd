"""Configs as a command composes them, in this process."""

from __future__ import annotations

from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from crystalline.command import CONF_DIR, register


def composed(*overrides: str, root: str = "config", **options: Any) -> DictConfig:
    """The config of a root and overrides, without a run folder; options of `hydra.compose`."""
    register()
    folder = ["paths.run_dir=unused"] if root == "config" else []
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(root, [*folder, *overrides], **options)
