"""Checkpoints of small models that have learned nothing, made without a run."""

from functools import cache
from pathlib import Path

import torch

from crystalline.checkpoint import Loaded, rebuilt, write
from crystalline.tokenizer import BPETokenizer
from tests.crystalline.export.runtime.tables import trained

TEXT = "tan nora tarot tan stone, no raster senate; the nonstarter ran on.\n"
FAITHFUL = {"mode": "faithful", "attention": "none"}


@cache
def tokenizer() -> BPETokenizer:
    return trained([TEXT] * 20, 290)


def loaded(**options) -> Loaded:
    """Two more rows than there are neurons in a field."""
    config = {
        "_target_": "crystalline.models.crystal.Crystal", "context_length": 12, "d_model": 8,
        "num_heads": 2, "capacity": 9, "founders": 7, "attention": "every",
    }  # fmt: skip
    entry = {
        "format": 1, "config": {"model": config | options}, "choices": {}, "overrides": [],
        "tokenizer": tokenizer().to_json(), "vocab_size": tokenizer().vocab_size,
        "data_fingerprint": "0", "mlflow_run_id": None, "versions": {},
    }  # fmt: skip
    from crystalline.models.crystal import Crystal

    torch.manual_seed(0)
    keys = {key: value for key, value in (config | options).items() if key != "_target_"}
    model = Crystal(tokenizer().vocab_size, **keys)
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    return rebuilt({"crystalline": entry, "global_step": 3, "state_dict": weights}, "memory")


def checkpoint(folder: Path, **options) -> Path:
    """The same in a file."""
    found = loaded(**options)
    weights = {f"model.{name}": value for name, value in found.model.state_dict().items()}
    path = folder / "model.ckpt"
    write({"crystalline": found.checkpoint, "global_step": 3, "state_dict": weights}, path)
    return path
