"""Every experiment composes and builds, and every job of every grid does."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig

from crystalline.command import CONF_DIR, register
from crystalline.contract import LanguageModel


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("[!_]*.yaml"))


def composed(*overrides: str, **options: bool) -> DictConfig:
    register()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", ["paths.run_dir=unused", *overrides], **options)


def built(config: DictConfig) -> LanguageModel:
    with torch.device("meta"):
        return instantiate(config.model, vocab_size=100, _convert_="all")


@pytest.mark.parametrize("name", names("experiment"))
def test_every_experiment_builds(name):
    config = composed(f"experiment={name}")
    assert built(config).count_parameters()["parameters"] > 0
    objective = instantiate(config.objective, _convert_="all")
    data = instantiate(config.data, _convert_="all")
    build = instantiate(config.optimizer, _convert_="all")
    optimizers = objective.optimizers(built(config), build)
    assert next(iter(optimizers)) == "main"
    assert data is not None


@pytest.mark.parametrize("name", names("grid"))
def test_jobs_of_every_grid_build(name):
    config = composed(f"grid={name}", return_hydra_config=True)
    assert config.hydra.mode.name == "MULTIRUN"
    lists = [f"{key}={values}" for key, values in config.hydra.sweeper.params.items()]
    parsed = OverridesParser.create().parse_overrides(lists)
    jobs = BasicSweeper.split_arguments(parsed, None)[0]
    assert len(jobs) > 1
    for job in jobs[:: -(-len(jobs) // 10)]:  # all of a small grid
        assert built(composed(f"grid={name}", *job)).count_parameters()["parameters"] > 0
