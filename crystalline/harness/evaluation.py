"""Score a checkpoint, or a Hugging Face model, on tasks of lm-evaluation-harness."""

# pyright: reportMissingImports=false
# lm_eval is an extra that dev does not have: it slows every start.
from __future__ import annotations

import importlib.metadata
import json
import logging
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lm_eval
import torch
from lm_eval.api.model import LM
from lm_eval.utils import handle_non_serializable

from crystalline.errors import UserError
from crystalline.files import finite, run_folder, write_atomically
from crystalline.generate import open_checkpoint
from crystalline.harness.adapter import HarnessModel
from crystalline.harness.options import Options
from crystalline.harness.tasks import load_tasks
from crystalline.text_table import text_table

if TYPE_CHECKING:
    from omegaconf import DictConfig

_RESAMPLES = 1000
"""For standard errors without a formula; lm_eval's own 100,000 take minutes."""

_KEPT = ("results", "groups", "group_subtasks", "versions", "n-shot", "higher_is_better")
"""Of what lm_eval answers, under its own names."""

log = logging.getLogger(__name__)


def evaluate(config: DictConfig, options: Options) -> dict[str, Any]:
    """Write the scores to `output` and to the log; what was written.

    Raises:
        UserError: For a model or a task that cannot be opened.
    """
    for name in ("lm_eval", "huggingface_hub"):  # what they say beside results and errors
        logging.getLogger(name).setLevel(logging.ERROR)
    model, about = _hugging_face(options) if options.hf_model else _ours(config, options)
    tasks = load_tasks(options.tasks, options.include_path, options.num_fewshot)
    score: Any = lm_eval.evaluate  # its decorators hide its signature
    with redirect_stdout(sys.stderr):  # it prints what it resamples
        found = score(
            lm=model,
            task_dict=tasks,
            limit=options.limit,
            bootstrap_iters=_RESAMPLES,
            log_samples=False,
        )
    scores = {
        **about,
        "harness": f"lm_eval {importlib.metadata.version('lm_eval')}",
        "limit": options.limit,
        **{name: found[name] for name in _KEPT if found.get(name)},
        "n-samples": {name: dict(count) for name, count in found["n-samples"].items()},
    }
    output = Path(config.output or _default_output(config, options))
    text = json.dumps(finite(scores), indent=2, default=handle_non_serializable)
    write_atomically(output, text + "\n")
    log.info("%s\nwritten to %s", table(scores), output)
    return scores


def table(scores: Mapping[str, Any]) -> str:
    """A line for each figure of each task."""
    rows = []
    for task, figures in scores["results"].items():
        for key, value in figures.items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, float | int):
                continue
            error = figures.get(f"{metric}_stderr,{kind}")
            rows.append(
                {
                    "task": task,
                    "shots": scores["n-shot"].get(task, "-"),
                    "documents": scores["n-samples"].get(task, {}).get("effective", "-"),
                    "metric": metric if kind == "none" else f"{metric} ({kind})",
                    "value": _shown(value),
                    "stderr": _shown(error),
                }
            )
    return text_table(rows) if rows else "no figures"


def _shown(value: Any) -> str:
    if not isinstance(value, float | int):
        return "-"
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"


def _ours(config: DictConfig, options: Options) -> tuple[LM, dict[str, Any]]:
    loaded = open_checkpoint(config)
    model = HarnessModel(loaded.model, loaded.tokenizer, options.batch_size)
    return model, {"checkpoint": str(config.checkpoint), "steps": loaded.step}


def _hugging_face(options: Options) -> tuple[LM, dict[str, Any]]:
    """lm_eval's own adapter."""
    from lm_eval.models.huggingface import HFLM

    adapter: Any = HFLM  # its decorator hides its signature
    name = str(options.hf_model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = adapter(name, backend="causal", device=device, batch_size=options.batch_size)
    except (OSError, ValueError, KeyError) as error:  # not there, not causal, no tokenizer
        raise UserError(
            f"hf_model={name}: {str(error).strip().splitlines()[0]}; give a folder with a causal "
            "model and its tokenizer, or a hub name where there is a network"
        ) from error
    return model, {"hf_model": name}


def _default_output(config: DictConfig, options: Options) -> Path:
    """Beside the run's other results; in the working folder for a model that is not ours."""
    if options.hf_model:
        return Path(f"harness_{options.hf_model.strip('/').replace('/', '_')}.json")
    return run_folder(config.checkpoint) / "harness.json"
