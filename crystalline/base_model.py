"""Models that stand on trained ones: `model.base` names one, then the config holds it.

Which arguments of a model do so is known by their names: `base`, and those that end in `_base`. One
with a default may be null.
"""

from __future__ import annotations

import inspect
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict

from crystalline import checkpoint
from crystalline.contract import LanguageModel
from crystalline.errors import UserError
from crystalline.files import checkpoint_in
from crystalline.tokenizer import Tokenizer


def base_arguments(model: DictConfig) -> dict[str, bool]:
    """Arguments of a model that name bases, and whether each must be given."""
    arguments = inspect.signature(get_object(model._target_)).parameters
    return {
        key: argument.default is inspect.Parameter.empty
        for key, argument in arguments.items()
        if key == "base" or key.endswith("_base")
    }


def take_bases(model: DictConfig, tokenizer: Tokenizer) -> dict[str, LanguageModel]:
    """Put the config of each base in place of its path, so that checkpoints stand alone.

    What an experiment says of the model, and the model itself does not take, is about the base:
    `experiment=fsm_states model=sae` asks for a base of that width and depth.

    Args:
        model: Node of the model; changed. A base is a checkpoint, the folder of a run, or, in a run
            that is resumed, the config that an earlier call has put there.
        tokenizer: Of the data.

    Returns:
        The bases by argument, for `LanguageModel.load_base`; none whose weights are in the
        checkpoint.

    Raises:
        UserError: If no base is named or it cannot be read, has another vocabulary, or is built
            otherwise than the config says.
    """
    found = {}
    for key, needed in base_arguments(model).items():
        if key not in model or OmegaConf.is_dict(model[key]):
            continue
        if model[key] is not None:
            found[key] = _take(model, key, tokenizer)
        elif needed:
            raise UserError(
                f"model.{key}: give a checkpoint or the folder of a run, model.{key}=<run>"
            )
    return found


def _take(model: DictConfig, key: str, tokenizer: Tokenizer) -> LanguageModel:
    name = f"model.{key}={model[key]}"
    loaded = checkpoint.load(checkpoint_in(model[key]))
    if loaded.tokenizer.to_json() != tokenizer.to_json():
        raise UserError(
            f"{name} has another vocabulary ({loaded.tokenizer.vocab_size} ids) than "
            f"the data ({tokenizer.vocab_size} ids); name data of the base's own kind"
        )
    node = {**loaded.config["model"], "vocab_size": loaded.tokenizer.vocab_size}
    with open_dict(model):
        _agree(model, node, name)
        model[key] = node
    return loaded.model


def _agree(model: DictConfig, base: dict[str, Any], name: str) -> None:
    """Take away the keys that are about the base.

    Raises:
        UserError: If the base has another value.
    """
    own = inspect.signature(get_object(model._target_)).parameters
    for key in [str(k) for k in model if k not in own and str(k) in base and k != "_target_"]:
        wanted = OmegaConf.to_container(OmegaConf.create({key: model[key]}), resolve=True)
        if wanted[key] != base[key]:  # type: ignore[index,call-overload]
            raise UserError(f"model.{key}={model[key]}: {name} has {key}={base[key]}")
        del model[key]
