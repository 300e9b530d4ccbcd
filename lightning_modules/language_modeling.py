"""The LightningModule of every family: rounds, losses, optimizers, evaluation."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import lightning
import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from crystalline.contract import Codes, LanguageModel, ModelOutput
from crystalline.errors import UserError
from crystalline.eval_mode import uncompiled
from crystalline.layers.cross_entropy import IGNORED
from crystalline.metrics.token_loss import TokenLoss
from lightning_modules.divergence import Divergence, TrainingDiverged, first_non_finite
from lightning_modules.graphs import GraphedBackward
from lightning_modules.objectives import BuildOptimizer, Objective, step

log = logging.getLogger(__name__)

EVALUATION_SPLITS = ("val", "test", "train")
"""Order of the test dataloaders."""


class LanguageModeling(lightning.LightningModule):
    """Next-token training by manual optimization; one Lightning batch is one round.

    Lightning would count two optimizers twice and refuses to clip, accumulate or schedule for them,
    so a round does all of it here: micro-batches, one backward pass each, clipping, steps,
    schedules. `global_step` counts rounds for every objective.

    Args:
        model: The language model.
        objective: Who trains what.
        build_optimizer: See `BuildOptimizer`.
        total_steps: Rounds of the whole run: the horizon of schedules and loss weights.
        tokens_per_round: Of the global batch.
        seed: With round and rank it decides dropout.
        cuda_graph: Whether rounds are recorded and replayed as a CUDA graph, where there is one GPU
            and no accumulation.
        log_every_n_steps: Rounds between rows of metrics, here and in callbacks.
        check_finite_every: Rounds between looks at the NaN flag.
        payload: Plain containers for the checkpoint's "crystalline" entry.
    """

    def __init__(
        self,
        model: LanguageModel,
        objective: Objective,
        build_optimizer: BuildOptimizer,
        *,
        total_steps: int,
        tokens_per_round: int,
        seed: int,
        cuda_graph: bool = False,
        log_every_n_steps: int = 10,
        check_finite_every: int = 10,
        payload: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.objective = objective
        self.total_steps = total_steps
        self.tokens_per_round = tokens_per_round
        self.seed = seed
        self.cuda_graph = cuda_graph
        self.log_every_n_steps = log_every_n_steps
        self.check_finite_every = check_finite_every
        self.payload = dict(payload or {})
        self.divergence = Divergence()
        self.evaluations = torch.nn.ModuleList(TokenLoss() for _ in EVALUATION_SPLITS)
        self.interrupted = False
        """Whether a signal ends the run early: nothing that takes time should follow."""
        self.steps_done = 0
        """Rounds done in all; Lightning forgets its own count when it tests."""
        self.results: dict[str, float | None] = {}
        self._build_optimizer = build_optimizer
        self._names: list[str] = []
        self._graphed: GraphedBackward | None = None

    # Learning

    def configure_optimizers(self) -> Any:
        try:
            named = self.objective.optimizers(self.model, self._build_optimizer)
        except (TypeError, ValueError) as error:
            raise UserError(f"optimizer: {error}") from error
        self._names = list(named)
        factor = self.objective.schedule.over(self.total_steps)
        return list(named.values()), [LambdaLR(opt, factor) for opt in named.values()]

    def on_train_start(self) -> None:
        if not self.cuda_graph:
            return
        alone = self.device.type == "cuda" and self.trainer.world_size == 1
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if alone and not scaled and self.objective.accumulate == 1:
            self._graphed = GraphedBackward(self.losses, self.model.parameters())
        else:
            log.info(
                "cuda_graph=true needs one GPU, bf16 or fp32, and objective.accumulate=1; "
                "going without"
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        seed_round(self.seed, self.global_step, self.global_rank)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        round_ = self.global_step
        optimizers = dict(zip(self._names, _as_list(self.optimizers()), strict=True))
        raw = {name: optimizer.optimizer for name, optimizer in optimizers.items()}
        self.model.begin_round(round_ / max(1, self.total_steps))
        terms = self._backward(batch)
        self.model.after_backward()
        norms = self.objective.clip_gradients(raw)
        skip = self.divergence.watch(round_, list(norms.values()))
        # Lightning counts a step for each of its wrappers that is called: one a round.
        step(raw["main"], skip, optimizers["main"].step)
        for name in self._names[1:]:
            step(raw[name], skip, raw[name].step)
        self.model.end_round(skip)
        rates = {name: schedule.get_last_lr()[0] for name, schedule in self._schedules().items()}
        for schedule in self._schedules().values():
            schedule.step()
        skipped = self.global_step == round_  # known at once where the optimizer is not fused
        if skipped or self.global_step % self.check_finite_every == 0:
            self.check_finite()
        if self.logs_now:
            self._log_round(terms, norms, rates)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps_done = self.global_step
        if self.global_step >= self.total_steps:
            self.trainer.should_stop = True  # makes Lightning validate the last round too

    @property
    def replays(self) -> bool:
        """Whether rounds are recorded as a CUDA graph."""
        return self._graphed is not None

    @property
    def logs_now(self) -> bool:
        """Whether metrics of the round just done are wanted."""
        return self.global_step % self.log_every_n_steps == 0

    def _backward(self, batch: Any) -> dict[str, Tensor]:
        """Gradients of the whole batch, micro-batch by micro-batch; mean loss terms."""
        tokens, targets = batch
        weights = self.model.loss_weights(self.global_step / max(1, self.total_steps))
        if self._graphed is not None:
            return self._graphed(tokens, targets, weights)
        self.zero_grad(set_to_none=True)
        count = self.objective.accumulate
        if len(tokens) % count:
            raise UserError(
                f"objective.accumulate={count} does not divide the {len(tokens)} sequences that a "
                "process has in a round; change it or data.batch_size"
            )
        sums: dict[str, Tensor] = {}
        shares = scored_shares(targets, count)
        parts = zip(tokens.chunk(count), targets.chunk(count), shares, strict=True)
        for index, (inputs, wanted, share) in enumerate(parts):
            with contextlib.nullcontext() if index == count - 1 else self._no_sync():
                terms = self.losses(inputs, wanted, weights, share)
                self.manual_backward(terms["loss/total"] / count)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / count
        return sums

    def losses(
        self,
        tokens: Tensor,
        targets: Tensor,
        weights: Mapping[str, float | Tensor],
        share: float | Tensor = 1.0,
    ) -> dict[str, Tensor]:
        """Cross-entropy (nats per token), every auxiliary loss, and their weighted sum.

        Args:
            tokens: int64 ids.
            targets: int64; -100 is not scored.
            weights: Of the auxiliary losses.
            share: What the cross-entropy counts, of part of a round; see `scored_shares`.
        """
        output = self.model(tokens)
        prediction = output.cross_entropy(targets).loss * share
        total = output.total(prediction, weights)
        auxiliary = {f"loss/{name}": value for name, value in output.losses.items()}
        return {"loss/total": total, "loss/prediction": prediction, **auxiliary}

    def _no_sync(self) -> contextlib.AbstractContextManager[Any]:
        block = getattr(self.trainer.strategy, "block_backward_sync", None)
        return contextlib.nullcontext() if block is None else block()

    def _schedules(self) -> dict[str, Any]:
        return dict(zip(self._names, _as_list(self.lr_schedulers()), strict=True))

    def check_finite(self) -> None:
        """Look at the NaN flag; replay the round that set it.

        Raises:
            TrainingDiverged: Naming the round and the first module whose output is not finite.
        """
        bad = self.divergence.read()
        if bad is None:
            return
        where = self._replay(bad)
        place = f"in {where}" if where else "in the backward pass"
        raise TrainingDiverged(
            f"the loss stopped being finite in round {bad}, first {place}; the last good "
            "checkpoint stays: resume from it with a lower optimizer.lr or objective.clip"
        )

    def _replay(self, round_: int) -> str | None:
        """The first module whose output is not finite in the forward passes of a round."""
        batch = self.trainer.datamodule.train_batch(round_)  # type: ignore[attr-defined]
        share = len(batch.tokens) // self.trainer.world_size
        tokens = batch.tokens[self.global_rank * share :][:share].to(self.device)
        seed_round(self.seed, round_, self.global_rank)
        found = (
            first_non_finite(self.model, part) for part in tokens.chunk(self.objective.accumulate)
        )
        return next((name for name in found if name), None)

    def _log_round(
        self, terms: dict[str, Tensor], norms: dict[str, Tensor], rates: dict[str, float]
    ) -> None:
        if self.trainer.world_size > 1:
            terms = {
                name: torch.as_tensor(self.all_gather(value)).mean()
                for name, value in terms.items()
            }
        self.record(
            {name: float(value) for name, value in terms.items()}
            | {f"grad_norm/{name}": float(value) for name, value in norms.items()}
            | {f"lr/{name}": value for name, value in rates.items()}
            | {"tokens_seen": self.global_step * self.tokens_per_round}
        )

    def record(self, metrics: Mapping[str, float | None]) -> None:
        """Hand metrics of this step to every logger and to callbacks; None values are left out."""
        known = {name: value for name, value in metrics.items() if value is not None}
        for name, value in known.items():
            self.trainer.callback_metrics[name] = torch.as_tensor(value)
        for logger in self.trainer.loggers:
            logger.log_metrics(known, step=self.global_step)

    # Evaluation

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, dict[str, Codes]]:
        """Score a batch; its codes go to callbacks."""
        output = self._evaluate(EVALUATION_SPLITS[dataloader_idx], batch, codes=True)
        return {"codes": output.codes}

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.record(self._finish(("val",)))

    def on_test_epoch_end(self) -> None:
        self.results = self._finish(EVALUATION_SPLITS)

    def _evaluate(self, split: str, batch: Any, *, codes: bool = False) -> ModelOutput:
        tokens, targets = batch
        with uncompiled(self.model):  # short last batches would each be compiled anew
            output = self.model(tokens, codes=codes)
        self._metric(split).update(output.cross_entropy(targets), targets)
        return output

    def _finish(self, splits: tuple[str, ...]) -> dict[str, float | None]:
        results: dict[str, float | None] = {}
        for split in splits:
            metric = self._metric(split)
            figures = metric.compute().figures(self._scored_bytes(split))
            metric.reset()
            results |= {f"{split}/{name}": value for name, value in figures.items()}
        return results

    def _metric(self, split: str) -> Any:
        return self.evaluations[EVALUATION_SPLITS.index(split)]

    def _scored_bytes(self, split: str) -> int | None:
        """Bytes of the scored text; None where it is no text, or only a part was scored."""
        trainer = self.trainer
        limit = trainer.limit_test_batches if trainer.testing else trainer.limit_val_batches
        whole = isinstance(limit, float) and limit == 1.0  # 1 means a single batch
        sizes = trainer.datamodule.split_bytes  # type: ignore[attr-defined]
        return sizes[split] if whole and sizes is not None else None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_finite()
        checkpoint["crystalline"] = self.payload


def scored_shares(targets: Int[Tensor, "batch pos"], parts: int) -> Float[Tensor, " parts"]:
    """How much more than the average part of a round each of ours has to say: mean 1 over all.

    With means over a part's scored targets times its share, the mean over all parts of all
    processes is that over all scored targets, however they are spread.

    Args:
        targets: Of this process in a round; -100 is not scored.
        parts: Micro-batches of this process.
    """
    scored = (targets != IGNORED).unflatten(0, (parts, -1)).flatten(1).sum(1).float()
    mean = scored.mean()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return scored / torch.where(mean > 0, mean, 1.0)


def seed_round(seed: int, round_: int, rank: int) -> None:
    """Make torch's random numbers a function of (seed, round, rank), so no state need be saved."""
    words = np.random.SeedSequence((seed, round_, rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0] >> np.uint64(1)))


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
