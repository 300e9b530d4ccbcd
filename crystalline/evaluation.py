"""One evaluation rule for all: windows without overlap, every target once, every code counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from crystalline.checkpoint import Loaded
from crystalline.devices import resolve_devices
from crystalline.errors import UserError
from crystalline.eval_mode import evaluating
from crystalline.from_config import from_config
from crystalline.metrics.code_rate import CodeRate
from crystalline.metrics.codebook_usage import usage_by_site
from crystalline.metrics.token_loss import TokenLoss
from crystalline.tokenizer import Tokenizer
from datamodules.batch import IGNORED
from datamodules.documents import Split
from datamodules.rounds import RoundDataModule
from datamodules.tokenizer_builders import TokenizerBuilder

log = logging.getLogger(__name__)


class _Given(TokenizerBuilder):
    """The tokenizer that a checkpoint brings."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def build(self, train: Split, folder: Path) -> Tokenizer:
        return self._tokenizer


def data_of(loaded: Loaded, config: DictConfig) -> RoundDataModule:
    """The corpus that the command names, or the checkpoint's own, in the checkpoint's tokens.

    Raises:
        UserError: If the corpus cannot be found, or is not made of the checkpoint's tokens.
    """
    full = OmegaConf.create(loaded.checkpoint["config"])
    full.paths = OmegaConf.to_container(config.paths, resolve=False)
    own = config.get("data") is None
    if not own:
        full.data = OmegaConf.to_container(config.data, resolve=False)
    name = name_of(loaded, config)
    has_tokenizer = OmegaConf.select(full, "data.tokenizer") is not None
    values = {"tokenizer": _Given(loaded.tokenizer)} if has_tokenizer else {}
    data: RoundDataModule = from_config(full.data, **values)
    try:
        data.prepare_data()
        data.setup("test")
    except ValueError as error:
        raise UserError(f"data={name}: {error}; name data of the checkpoint's own kind") from error
    if data.tokenizer.to_json() != loaded.tokenizer.to_json():
        raise UserError(
            f"data={name} has another vocabulary ({data.vocab_size} ids) than the checkpoint "
            f"({loaded.tokenizer.vocab_size} ids); name data of the checkpoint's own kind"
        )
    if own and data.fingerprint != loaded.checkpoint["data_fingerprint"]:
        log.warning(
            "the corpus here (%s) is another edition than the one trained on (%s)",
            data.fingerprint,
            loaded.checkpoint["data_fingerprint"],
        )
    return data


def name_of(loaded: Loaded, config: DictConfig) -> str:
    """What the corpus is called in `conf/data`."""
    if config.get("data") is None:
        return loaded.checkpoint["choices"].get("data", "?")
    return HydraConfig.get().runtime.choices["data"]


def score(loaded: Loaded, data: RoundDataModule, split: str) -> dict[str, float | None]:
    """Loss (nats per target), bits per byte, perplexity, usage and bits of codes of a split.

    The model runs where it is, in the precision that a run would take there.
    """
    model, device = loaded.model, next(loaded.model.parameters()).device
    place = {"accelerator": "gpu" if device.type == "cuda" else "cpu", "devices": 1}
    trainer = DictConfig({**loaded.config["trainer"], **place})
    precision: Any = resolve_devices(trainer).precision
    fabric = lightning.Fabric(**place, precision=precision)
    loss, rate = TokenLoss().to(device), CodeRate()
    loaders: dict[str, Callable[[], Any]] = {
        "val": data.val_dataloader,
        "test": data.test_dataloader,
        "train": data.train_eval_dataloader,
    }
    with evaluating(model), fabric.autocast():
        for batch in loaders[split]():
            wanted = batch.targets.to(device)
            output = model(batch.tokens.to(device), codes=True)
            loss.update(output.cross_entropy(wanted), wanted)
            rate.update(output.codes, wanted != IGNORED)
    sizes = data.split_bytes
    return {
        **loss.compute().figures(sizes[split] if sizes else None),
        **usage_by_site({site: counts.codes for site, counts in rate.sites.items()}),
        **rate.figures(),
    }


def table(scores: Mapping[str, Mapping[str, float | None]]) -> str:
    """The scores as lines, a split each."""
    columns = {
        "loss": "loss",
        "bpb": "bpb",
        "perplexity": "perplexity",
        "accuracy": "accuracy",
        "code usage": "codebook/usage",
        "code perplexity": "codebook/perplexity",
        "code bits": "code_bits",
    }
    lines = [f"{'split':<6}" + "".join(f"{title:>17}" for title in columns)]
    for split, figures in scores.items():
        known = [figures.get(name) for name in columns.values()]
        cells = ["-" if value is None else f"{value:.4f}" for value in known]
        lines.append(f"{split:<6}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)
