"""A neuron field as a file holds it, and what the C runtime has to know of it."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from crystalline.layers.parts import Parts
from crystalline.models.crystal.attention import DotAttention
from crystalline.models.crystal.field import NULL_LOGIT

if TYPE_CHECKING:
    from crystalline.models.crystal.model import Crystal

Facts = dict[str, int | float | str | bool]


def without_room(model: Crystal) -> Crystal:
    """A copy without room for neurons and blocks to come, and without what growth remembers."""
    found = deepcopy(model)
    found.blocks = Parts(block for block in found.blocks if block.opened)
    for field in found.fields().values():
        field.shrink()
    found.lives, found.hand_over, found.annealing, found.epochs = Parts(), None, None, 0
    return found.requires_grad_(False)


def config_without_room(model: Crystal, config: dict[str, Any]) -> dict[str, Any]:
    """The model's configuration, such that it builds `without_room(model)`."""
    blocks = [block for block in model.blocks if block.opened]
    room = [[int(f.alive.sum()) for f in block.fields().values()] for block in blocks]
    config = config | {"num_layers": len(blocks), "epochs": 0}
    config |= dict.fromkeys(("growth", "freezing", "scales", "hand_over", "annealing"))
    if all(room):
        config["capacity"] = [max(rooms) for rooms in room]
        config["founders"] = min(min(rooms) for rooms in room)
    return config


def runtime_facts(model: Crystal) -> Facts | None:
    """See docs/crystal_format.md; None where the C runtime does not know the architecture."""
    fields = list(model.fields().values())
    attentions = [block.attention for block in model.blocks if block.attention is not None]
    plain = all(isinstance(a, DotAttention) and a.fading is None for a in attentions)
    if not plain or len(fields) != len(model.blocks):
        return None
    found: Facts = {
        "arch": "crystal",
        "vocab_size": model.vocab_size,
        "context_length": model.context_length,
        "d_model": model.embedding.embedding_dim,
        "d_mlp": model.blocks[0].mlp.up.out_features,
        "num_layers": len(model.blocks),
        "num_heads": model.num_heads if attentions else 0,
        "norm_eps": model.blocks[0].mlp_norm.eps,
        "activation": "gelu_erf",
        "width": model.switches.width,
        "width_factor": float(fields[0].reach),
        "final_norm": model.norm is not None,
        "head_bias": model.head.bias is not None,
    }
    return found | ({"null_logit": NULL_LOGIT} if fields[0].null_slot else {})
