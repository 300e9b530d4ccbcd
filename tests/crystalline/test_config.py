"""Every file in `conf` composes and builds."""

import re
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from crystalline.base_model import take_bases
from crystalline.command import CONF_DIR
from crystalline.contract import LanguageModel
from crystalline.experiment import check_config
from crystalline.tokenizer import DigitTokenizer
from tests import composing
from tests.selection import often

FILES = sorted(CONF_DIR.rglob("*.yaml"))
ROOTS = [path.stem for path in FILES if path.parent == CONF_DIR]
OTHER_ROOTS = {"suite": "benchmark", "topics": "intervene"}
"""Groups of commands that do not train."""
BUILT = ("model", "experiment", "quantizer", "objective", "optimizer", "trainer", "callbacks",
         "logger")  # fmt: skip
"""Groups whose every choice another test here composes."""
PARTS = {"quantizer": "quantizer@model.quantizer", "tokenizer": "tokenizer@data.tokenizer"}


def options(group: str) -> list[str]:
    """What can be chosen; files that others are made of begin with an underscore."""
    folder = CONF_DIR / group
    chosen = [p for p in FILES if folder in p.parents and not p.stem.startswith("_")]
    return [p.relative_to(folder).with_suffix("").as_posix() for p in chosen]


@cache
def _composed(root: str, *overrides: str) -> DictConfig:
    return composing.composed(*overrides, root=root, return_hydra_config=True)


def composed(*overrides: str, root: str = "config") -> DictConfig:
    """What many tests ask for is composed once."""
    return deepcopy(_composed(root, *overrides))


BASES = {"sae": "transformer", "abstractinator_top": "abstractinator"}
"""What stands for the checkpoint that a model is built on."""


def model_of(config: DictConfig) -> LanguageModel:
    if config.model.get("base", {}) is None:
        base = BASES[config.hydra.runtime.choices.model]
        config.model.base = {**composed(f"model={base}").model, "vocab_size": 320}
    with torch.device("meta"):
        return instantiate(config.model, vocab_size=320, _convert_="all")


@pytest.mark.parametrize("name", ROOTS)
def test_every_command_composes(name):
    assert composed(root=name).hydra.job.chdir is False


MODELS = [name for name in options("model") if not name.startswith("crystal/")]


@pytest.mark.parametrize("name", often(options("model"), *MODELS))
def test_every_model_builds(name):
    config = composed(f"model={name}")
    check_config(config)
    model = model_of(config)
    assert model.vocab_size == 320
    assert model.context_length == config.model.context_length == config.data.seq_len
    assert take_bases(config.model, DigitTokenizer()) == {}  # nothing else is taken for a base


EXPERIMENTS = [name for name in options("experiment") if not name.endswith("_512")]


@pytest.mark.parametrize("name", often(options("experiment"), *EXPERIMENTS))
def test_every_experiment_builds(name):
    config = composed(f"experiment={name}")
    check_config(config)
    model = model_of(config)
    assert model.count_parameters()["parameters"] > 0
    objective = instantiate(config.objective, _convert_="all")
    optimizers = objective.optimizers(model, instantiate(config.optimizer, _convert_="all"))
    assert next(iter(optimizers)) == "main"
    assert instantiate(config.data, _convert_="all") is not None
    text = (CONF_DIR / "experiment" / f"{name}.yaml").read_text()
    assert text.startswith("# @package _global_\n# ")  # the question
    assert re.search(rf"^#   python -m crystalline.run .*experiment={name}\b", text, re.MULTILINE)


@pytest.mark.parametrize("name", often(options("grid"), "codebook", "pyramid", "e2_arms"))
def test_every_grid_is_a_sweep_whose_jobs_build_and_says_its_command(name):
    config = composed(f"grid={name}")
    assert config.hydra.mode.name == "MULTIRUN"
    params = config.hydra.sweeper.params
    lists = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()])
    assert len(BasicSweeper.split_arguments(lists, None)[0]) > 1
    choices = [BasicSweeper.split_arguments([each], None)[0] for each in lists]
    for number in range(max(map(len, choices))):  # every value at least once
        job = [args[number % len(args)][0] for args in choices]
        assert model_of(composed(f"grid={name}", *job)).count_parameters()["parameters"] > 0
    text = (CONF_DIR / "grid" / f"{name}.yaml").read_text()
    assert re.search(rf"^#   python -m crystalline.run .*grid={name}\b", text, re.MULTILINE)


@pytest.mark.parametrize("name", options("quantizer"))
def test_every_quantizer_can_be_chosen_and_every_site_has_its_own(name):
    model = model_of(composed("model=ziggurat", f"quantizer@model.quantizer={name}"))
    books = list(model.codebooks().values())
    assert len(books) > 1
    assert len({id(book) for book in books}) == len({id(book.codes) for book in books})


@pytest.mark.parametrize("group", ["objective", "optimizer", "trainer", "callbacks", "logger"])
def test_every_option_of_the_other_groups_builds(group, tmp_path):
    for name in options(group):
        config = composed(f"{group}={name}", f"paths.run_dir={tmp_path}")
        check_config(config)
        with open_dict(config):  # what `Experiment` sets, on any machine
            config.trainer.update(accelerator="cpu", devices=1, precision="32-true", logger=False)
            config.trainer.update(enable_checkpointing=False, default_root_dir=str(tmp_path))
        node = config[group]
        parts = [node] if "_target_" in node else [part for part in node.values() if part]
        assert all(instantiate(part, _convert_="all") is not None for part in parts), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONF_DIR).as_posix())
def test_every_file_can_be_reached(path: Path):
    group, _, name = path.relative_to(CONF_DIR).with_suffix("").as_posix().partition("/")
    if not name:
        name = group
        command = CONF_DIR.parent / "crystalline" / name
        assert command.with_suffix(".py").exists() or command.is_dir() or name == "config"
        return
    if path.stem.startswith("_"):
        neighbours = [yaml.safe_load(other.read_text()) for other in path.parent.glob("*.yaml")]
        used = [str(part) for other in neighbours for part in (other or {}).get("defaults", [])]
        assert any(part.removesuffix("@_here_") == name for part in used)
        return
    if group.startswith("hydra"):
        texts = [other.read_text() for other in FILES if other != path]
        assert any(re.search(rf"\b{path.stem}\b", text) for text in texts)
        return
    if group in BUILT:
        return
    root = OTHER_ROOTS.get(group, "config")
    config = composed(f"{PARTS.get(group, group)}={name}", root=root)
    assert config.hydra.runtime.choices[PARTS.get(group, group)] == name


def test_values_that_follow_others_do_so():
    config = composed("seed=7", "optimizer.lr=0.5", "model.context_length=64")
    assert config.objective.codebook_lr == pytest.approx(0.05)
    assert config.data.seed == config.callbacks.codebook_init.seed == 7
    assert config.data.seq_len == 64


@pytest.mark.parametrize("first", ["model=transformer", "experiment=transformer_lovecraft"])
def test_the_transformer_has_the_parameters_of_the_ziggurat_it_is_compared_with(first):
    sizes = []
    for choice in (first, first.replace("transformer", "ziggurat")):
        config = composed(choice)
        vocab_size = config.data.tokenizer.vocab_size
        with torch.device("meta"):
            model = instantiate(config.model, vocab_size=vocab_size, _convert_="all")
        sizes.append(model.count_parameters()["parameters_without_codebooks"])
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def test_containers_reach_the_models_as_plain_lists():
    config = composed("model=ziggurat")
    assert isinstance(OmegaConf.to_container(config.model.layers_per_stage), list)
    assert model_of(config).alignment == 2 ** (len(config.model.layers_per_stage) - 1)
