"""One training run, from a config to its summary."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf

from callbacks.checkpoint import AtomicCheckpointIO, Checkpoint
from callbacks.interruption import GracefulStop
from callbacks.throughput import Throughput, peak_memory_mib
from callbacks.verdict import Verdict
from crystalline import checkpoint
from crystalline.base_model import base_arguments, take_bases
from crystalline.contract import LanguageModel
from crystalline.devices import resolve_devices
from crystalline.errors import UserError
from crystalline.from_config import check, from_config
from crystalline.summary import Origin, device_name, versions, write_summary
from lightning_modules.language_modeling import LanguageModeling

log = logging.getLogger(__name__)


class Experiment:
    """Builds every part once, fits, tests the best weights, sums up.

    Args:
        config: The composed config; with `ckpt_path`, that of the checkpoint.
        origin: For checkpoints and the summary.
    """

    def __init__(self, config: DictConfig, origin: Origin) -> None:
        _quiet()
        self.config = config
        self.origin = origin
        self.run_dir = Path(config.paths.run_dir)
        self.devices = resolve_devices(config.trainer)
        torch.set_float32_matmul_precision("high")  # TF32 where autocast leaves fp32 products
        if not 0 <= config.seed < 2**32:
            raise UserError(f"seed must lie between 0 and {2**32 - 1}, got {config.seed}")
        check_config(config)
        self.data = from_config(config.data)
        self.data.prepare_data()
        self.data.setup("fit")
        bases = take_bases(config.model, self.data.tokenizer)
        lightning.seed_everything(config.seed, verbose=False)
        self.model: LanguageModel = from_config(config.model, vocab_size=self.data.vocab_size)
        for name, base in bases.items():
            self.model.load_base(name, base)
        self.callbacks = [from_config(node) for node in config.callbacks.values() if node]
        self.loggers = [from_config(node) for node in config.logger.values() if node]

    @cached_property
    def total_steps(self) -> int:
        """Rounds of the whole run: `max_steps` or `max_epochs`, whichever ends first."""
        steps, epochs = self.config.trainer.max_steps, self.config.trainer.max_epochs
        limits = [] if steps is None else [steps]
        if epochs is not None:
            limits.append(epochs * self.data.rounds_per_epoch)
        if not limits or min(limits) < 0:
            raise UserError(
                f"trainer.max_steps={steps}, trainer.max_epochs={epochs}: give one, 0 or more"
            )
        return min(limits)

    @cached_property
    def module(self) -> LanguageModeling:
        config = self.config
        return LanguageModeling(
            self.model,
            from_config(config.objective),
            from_config(config.optimizer),
            total_steps=self.total_steps,
            tokens_per_round=self.data.train_batch(0).tokens.numel(),
            seed=config.seed,
            cuda_graph=config.cuda_graph,
            log_every_n_steps=config.trainer.log_every_n_steps,
            payload=self._payload(),
        )

    @cached_property
    def trainer(self) -> lightning.Trainer:
        strategy: Any = "auto"
        if self.devices.count > 1:
            strategy = DDPStrategy(
                find_unused_parameters=bool(self.model.parameters_without_gradient()),
                broadcast_buffers=False,  # codebooks sum their statistics themselves
                gradient_as_bucket_view=True,
            )
        return from_config(
            self.config.trainer,
            accelerator=self.devices.accelerator,
            devices=self.devices.count,
            precision=self.devices.precision,
            strategy=strategy,
            max_steps=self.total_steps,
            max_epochs=-1,
            check_val_every_n_epoch=None,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=any(isinstance(c, Checkpoint) for c in self.callbacks),
            callbacks=self.callbacks,
            logger=self.loggers or False,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=str(self.run_dir),
        )

    def run(self) -> dict[str, Any]:
        """Fit, test and write `summary.json`.

        Raises:
            SystemExit: With 128 + the signal's number, after a signal ended the run early.
        """
        self.compile()
        resume_from = self._resume()
        self._announce()
        try:
            self.trainer.fit(self.module, datamodule=self.data, ckpt_path=resume_from)
            self._exit_if_interrupted()
            self._test()
        except BaseException:
            for logger in self.loggers:
                logger.finalize("failed")
            raise
        summary = self._summary()
        if self.trainer.is_global_zero:
            write_summary(self.run_dir, summary)
            verdict = _find(self.callbacks, Verdict)
            if verdict is not None:
                verdict.conclude(self.trainer, summary)
            self._log_figures(summary)
        for logger in self.loggers:
            if hasattr(logger, "log_artifact") and self.trainer.is_global_zero:
                logger.log_artifact(self.run_dir / "summary.json", "")
            logger.finalize("success")
        return summary

    def compile(self) -> None:
        """Compile the model's blocks, where the config says so."""
        if self.config.compile:
            for part in self.model.compiled_parts():
                part.compile(dynamic=False)

    def _resume(self) -> str | None:
        path = self.config.ckpt_path
        if path is None:
            resolved = OmegaConf.to_container(self.config, resolve=True)
            for logger in self.loggers:
                logger.log_hyperparams(resolved)
            return None
        state = checkpoint.read(path)
        checkpoint.fill(self.model, state, path)
        step = state["global_step"]
        for logger in self.loggers:
            if hasattr(logger, "resume_at"):
                logger.resume_at(step)
        log.info("resuming at round %d", step)
        return str(path)

    def _announce(self) -> None:
        counts = self.model.count_parameters()
        log.info(
            "%s on %s: %s parameters (%s without codebooks), %d rounds of %s tokens, %s",
            type(self.model).__name__,
            type(self.data).__name__,
            f"{counts['parameters']:,}",
            f"{counts['parameters_without_codebooks']:,}",
            self.total_steps,
            f"{self.module.tokens_per_round:,}",
            os.path.relpath(self.run_dir),
        )

    def _payload(self) -> dict[str, Any]:
        """What makes a checkpoint stand alone."""
        ids = [logger.run_id for logger in self.loggers if hasattr(logger, "run_id")]
        return {
            "format": checkpoint.FORMAT,
            "config": OmegaConf.to_container(self.config, resolve=False),
            "choices": self.origin.choices,
            "overrides": self.origin.overrides,
            "tokenizer": self.data.tokenizer.to_json(),
            "vocab_size": self.data.vocab_size,
            "data_fingerprint": self.data.fingerprint,
            "mlflow_run_id": ids[0] if ids else None,
            "versions": versions(),
        }

    def _exit_if_interrupted(self) -> None:
        stop = _find(self.callbacks, GracefulStop)
        if stop is None or stop.received is None:
            return
        last = self.run_dir / "checkpoints" / "last.ckpt"
        name = signal.Signals(stop.received).name
        log.info("stopped by %s; go on with ckpt_path=%s", name, os.path.relpath(last))
        raise SystemExit(128 + stop.received)

    def _test(self) -> None:
        """Score the best weights, or the last where no best is kept, on all splits."""
        best = self.run_dir / "checkpoints" / "best.ckpt"
        keeper = _find(self.callbacks, Checkpoint)
        if keeper is not None and keeper.best_step is not None:
            self.trainer.strategy.barrier()
            checkpoint.fill(self.model, checkpoint.read(best), best)
        loaders = [
            self.data.val_dataloader(),
            self.data.test_dataloader(),
            self.data.train_eval_dataloader(),
        ]
        self.trainer.test(self.module, dataloaders=loaders, verbose=False)

    def _summary(self) -> dict[str, Any]:
        keeper = _find(self.callbacks, Checkpoint)
        noted = [getattr(callback, "figures", {}) for callback in self.callbacks]
        speed = _find(self.callbacks, Throughput)
        step = self.module.steps_done
        device = self.trainer.strategy.root_device  # the module itself is back on the CPU
        return {
            **self.module.results,
            **{name: value for figures in noted for name, value in figures.items()},
            **self.model.count_parameters(),
            "steps": step,
            "best_step": keeper.best_step if keeper else None,
            "tokens_seen": step * self.module.tokens_per_round,
            "tokens_per_second": speed.tokens_per_second if speed else None,
            "peak_memory_mib": peak_memory_mib(device),
            "device": device_name(device),
            "devices": self.devices.count,
            "precision": self.devices.precision,
            "seed": self.config.seed,
            "data_fingerprint": self.data.fingerprint,
            "versions": versions(),
            **asdict(self.origin),
        }

    def _log_figures(self, summary: dict[str, Any]) -> None:
        for key in ("test/bpb", "test/loss", "val/bpb", "val/loss", "tokens_per_second"):
            if summary.get(key) is not None:
                log.info("%-20s %.4f", key, summary[key])
        log.info("summary: %s", os.path.relpath(self.run_dir / "summary.json"))


def check_config(config: DictConfig) -> None:
    """Find a value of a wrong type before any work is done.

    Raises:
        UserError: If there is one; the line names its key.
    """
    check(config.model, given=("vocab_size", *base_arguments(config.model)))
    for node in (config.data, config.optimizer, config.objective, config.trainer):
        check(node)
    for group in ("callbacks", "logger"):
        for name, node in config[group].items():
            if not isinstance(node, DictConfig | None):
                raise UserError(f"{group}.{name}={node}: must be a node with _target_, or null")
            check(node)


def _quiet() -> None:
    """Lightning's notes are for people who write Trainers; errors still come through."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")


def _find(parts: list[Any], kind: type) -> Any:
    return next((part for part in parts if isinstance(part, kind)), None)
