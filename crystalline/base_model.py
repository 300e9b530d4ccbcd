"""A model that stands on a trained one: `model.base` names it, then the config holds it."""

from __future__ import annotations

import inspect
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from crystalline import checkpoint
from crystalline.errors import UserError
from crystalline.files import checkpoint_in
from crystalline.tokenizer import Tokenizer


def take_base(model: DictConfig, tokenizer: Tokenizer) -> dict[str, Tensor] | None:
    """Put the config of the base in place of its path, so that checkpoints stand alone.

    What an experiment says of the model, and the model itself does not take, is about the base:
    `experiment=fsm_states model=sae` asks for a base of that width and depth.

    Args:
        model: Node of the model; changed. Its `base` is a checkpoint, the folder of a run, or, in a
            run that is resumed, the config that an earlier call has put there.
        tokenizer: Of the data.

    Returns:
        Weights of the base; None where the model has no base or they are in the checkpoint.

    Raises:
        UserError: If no base is named or it cannot be read, has another vocabulary, or is built
            otherwise than the config says.
    """
    if "base" not in model or OmegaConf.is_dict(model.base):
        return None
    if model.base is None:
        raise UserError("model.base: give a checkpoint or the folder of a run, model.base=<run>")
    name, path = str(model.base), checkpoint_in(model.base)
    loaded = checkpoint.load(path)
    if loaded.tokenizer.to_json() != tokenizer.to_json():
        raise UserError(
            f"model.base={name} has another vocabulary ({loaded.tokenizer.vocab_size} ids) than "
            f"the data ({tokenizer.vocab_size} ids); name data of the base's own kind"
        )
    node = {**loaded.config["model"], "vocab_size": loaded.tokenizer.vocab_size}
    with open_dict(model):
        _agree(model, node, name)
        model.base = node
    return loaded.model.state_dict()


def _agree(model: DictConfig, base: dict[str, Any], name: str) -> None:
    """Take away the keys that are about the base.

    Raises:
        UserError: If the base has another value.
    """
    own = inspect.signature(get_object(model._target_)).parameters
    for key in [str(k) for k in model if k not in own and str(k) in base and k != "_target_"]:
        wanted = OmegaConf.to_container(OmegaConf.create({key: model[key]}), resolve=True)
        if wanted[key] != base[key]:  # type: ignore[index,call-overload]
            raise UserError(f"model.{key}={model[key]}: model.base={name} has {key}={base[key]}")
        del model[key]
