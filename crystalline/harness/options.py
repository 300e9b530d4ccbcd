"""What `crystalline.evaluate harness=lm_eval` was asked for, checked before anything is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crystalline.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

_PACKAGES = ("lm_eval", "transformers", "accelerate")
"""Of the extra; lm_eval's own class for Hugging Face models needs all three."""


@dataclass(frozen=True)
class Options:
    """The keys of `conf/evaluate.yaml` that the harness reads."""

    tasks: Sequence[str]
    """Names of tasks, groups or tags; patterns such as "arc_*"."""
    include_path: Path | None
    """Folder of the user's own task files."""
    num_fewshot: int | None
    """Solved examples before each question; None: as each task has it."""
    limit: int | float | None
    """Documents of each task, or a share of them below 1; None: all."""
    batch_size: int
    """Sequences at once."""
    hf_model: str | None
    """A Hugging Face causal model in place of a checkpoint: a hub name or a folder."""

    @classmethod
    def of(cls, config: DictConfig) -> Options:
        """The checked keys.

        Raises:
            UserError: For a value that is out of range or does not go with another, or if the extra
                is not installed.
        """
        from crystalline.generate import number, number_or_null

        if config.harness is None:
            raise UserError("hf_model is scored on tasks: add harness=lm_eval")
        if config.harness != "lm_eval":
            raise UserError(f"harness must be null or lm_eval, got {config.harness!r}")
        if config.hf_model is not None and config.checkpoint is not None:
            raise UserError("give checkpoint= or hf_model=, not both")
        if config.get("data") is not None:
            raise UserError(
                "data= goes with the scores of a split; leave it out with harness=lm_eval"
            )
        tasks = [config.tasks] if isinstance(config.tasks, str) else list(config.tasks or [])
        if not tasks or not all(isinstance(name, str) for name in tasks):
            raise UserError(f"tasks={config.tasks}: give names, such as tasks=[hellaswag,arc_easy]")
        found = cls(
            tasks,
            None if config.include_path is None else Path(str(config.include_path)),
            number_or_null(config, "num_fewshot", int),
            None if config.limit is None else _whole(number(config, "limit", float)),
            number(config, "batch_size", int),
            None if config.hf_model is None else str(config.hf_model),
        )
        found._check()
        return found

    def _check(self) -> None:
        if self.include_path is not None and not self.include_path.is_dir():
            raise UserError(f"include_path={self.include_path}: there is no such folder")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise UserError(f"num_fewshot={self.num_fewshot}: give 0 or more, or null")
        if self.limit is not None and (self.limit <= 0 or (self.limit > 1 and self.limit % 1)):
            raise UserError(
                f"limit={self.limit}: give a number of documents, a share below 1, or null for all"
            )
        if self.batch_size < 1:
            raise UserError(f"batch_size={self.batch_size}: give 1 or more")
        missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(
                f"harness=lm_eval needs {', '.join(missing)}: pip install 'crystalline-lm[harness]'"
            )


def _whole(value: float) -> int | float:
    return int(value) if value % 1 == 0 else value
