"""The model that a file holds: without room that is not used and without tokens left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crystalline.checkpoint import Loaded, rebuilt
from crystalline.contract import LanguageModel
from crystalline.errors import UserError
from crystalline.pruned_tokenizer import PrunedTokenizer, kept


def fitted(loaded: Loaded, occurring: Collection[int] | None, path: str) -> Loaded:
    """The model for a file, built by the configuration that the file will have.

    Args:
        loaded: Left as it is.
        occurring: Ids of tokens to keep, beside bytes and the special token; None: all.
        path: Of the checkpoint, for messages.

    Raises:
        UserError: If tokens cannot be left out of this model or tokenizer.
    """
    model, entry = loaded.model.for_export(), dict(loaded.checkpoint)
    config = dict(entry["config"])
    entry["config"] = config | {"model": loaded.model.export_config(dict(config["model"]))}
    weights = model.state_dict()
    if occurring is not None:
        try:
            tokenizer = PrunedTokenizer.of(loaded.tokenizer, occurring)
        except ValueError as reason:
            raise UserError(f"prune: {reason}; take prune=null") from None
        weights = cut(weights, vocabulary_tensors(model), kept(loaded.tokenizer, occurring))
        entry |= {"vocab_size": tokenizer.vocab_size, "tokenizer": tokenizer.to_json()}
    state = {
        "crystalline": entry,
        "global_step": loaded.step,
        "state_dict": {f"model.{name}": value.cpu() for name, value in weights.items()},
    }
    return rebuilt(state, path)


def vocabulary_tensors(model: LanguageModel) -> list[str]:
    """Names of the tensors with a row for each token: the embedding's and the head's.

    Raises:
        UserError: If the model has no such embedding.
    """
    embedding = dict(model.named_children()).get("embedding")
    if not isinstance(embedding, nn.Embedding) or embedding.num_embeddings != model.vocab_size:
        raise UserError(
            f"prune: {type(model).__name__} has no table `embedding` with a row for each token, "
            "so none can be left out; take prune=null"
        )
    head = [
        name
        for name, value in model.named_parameters(remove_duplicate=False)
        if name.startswith("head.") and len(value) == model.vocab_size
    ]
    return ["embedding.weight", *head]


def cut(
    weights: Mapping[str, Tensor], names: Collection[str], rows: Sequence[int]
) -> dict[str, Any]:
    """The weights with these rows alone of the tensors `names`."""
    index = torch.tensor(rows)
    return {
        name: value[index.to(value.device)] if name in names else value
        for name, value in weights.items()
    }
