"""A wrong value is one line that names the key and the choices."""

import re

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from crystalline.models.vocab_space.blocks import ACTIVATIONS
from crystalline.models.vocab_space.switches import SWITCHES
from tests.crystalline.models.vocab_space.test_variants import CONF, EACH, SMALL


@EACH
def test_unknown_modes_switches_and_activations_are_told_with_the_choices(variant):
    config = OmegaConf.load(CONF / f"{variant}.yaml")
    own = {*OmegaConf.load(CONF / "_vocab.yaml"), *config}
    wanted = {"mode": "must be faithful or repaired"}
    wanted |= {key: f"must be {' or '.join(SWITCHES[key].choices)}" for key in own & set(SWITCHES)}
    if "activation" in own:
        wanted["activation"] = f"must be one of {', '.join(ACTIVATIONS)}"
    sizes = {name: value for name, value in SMALL.items() if name in own}
    for key, choices in wanted.items():
        said = re.escape(f"model.{key} {choices}, got 'x'")
        with pytest.raises(ValueError, match=f"^{said}$"):
            get_class(config["_target_"])(32, 9, **sizes, **{key: "x"})


def test_every_switch_is_a_key_of_some_config():
    keys = {key for path in CONF.glob("*.yaml") for key in OmegaConf.load(path)}
    assert set(SWITCHES) <= keys
