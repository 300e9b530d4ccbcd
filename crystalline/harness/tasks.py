"""Finding the harness's tasks by name, and reading their data."""

# pyright: reportMissingImports=false
# lm_eval is an extra that dev does not have: it slows every start.
from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from pathlib import Path

from lm_eval.tasks import TaskManager
from lm_eval.tasks.manager import TaskDict

from crystalline.errors import UserError

_FEWSHOT_SEED = 1234
"""Of the harness's own command: it chooses the solved examples."""

log = logging.getLogger(__name__)


def load_tasks(
    wanted: Sequence[str], include_path: Path | None, num_fewshot: int | None
) -> TaskDict:
    """The tasks with their data, ready for `lm_eval.evaluate`.

    Args:
        wanted: Names or patterns.
        include_path: Folder of more task files; theirs win over lm_eval's own.
        num_fewshot: Solved examples before each question, except where a task is fixed to none;
            None: as each task has it.

    Raises:
        UserError: For an unknown name, a bad task file, or data that cannot be reached.
    """
    manager, names = _manager(wanted, include_path)
    log.info("tasks: %s; data that is not in the cache comes from the hub", ", ".join(names))
    try:
        loaded = manager.load(names)
    except OSError as error:  # a missing file, no network, no such dataset, no access to it
        raise UserError(
            f"tasks: cannot read their data ({_first_line(error)}); run once where there is a "
            "network, or give tasks over local files by include_path="
        ) from error
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        if own is None or (num_fewshot is not None and own != 0):
            task.set_config("num_fewshot", num_fewshot or 0)
        task.set_fewshot_seed(_FEWSHOT_SEED)
    return loaded


def _manager(wanted: Sequence[str], include_path: Path | None) -> tuple[TaskManager, list[str]]:
    """Who knows the tasks, and their full names.

    Reading lm_eval's own thousands of task files takes many seconds, so they are left alone where
    the user's folder has every task. A group may be made of tasks from anywhere.
    """
    if include_path is not None:
        own = TaskManager(include_path=str(include_path), include_defaults=False)
        names = own.match_tasks(list(wanted))
        alone = all(own.match_tasks([name]) for name in wanted)
        if alone and not set(names) & set(own.all_groups):
            return own, names
    log.info("reading the task files of lm_eval")
    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    return manager, matched(manager, wanted)


def matched(manager: TaskManager, wanted: Sequence[str]) -> list[str]:
    """Names of all tasks, groups and tags that the names or patterns mean.

    Raises:
        UserError: If one means none.
    """
    for name in wanted:
        if not manager.match_tasks([name]):
            close = difflib.get_close_matches(name, manager.all_tasks, n=5)
            meant = f"; did you mean {', '.join(close)}?" if close else ""
            raise UserError(
                f"tasks: there is no task {name}{meant} ({len(manager.all_tasks)} are known: "
                "lm_eval ls tasks)"
            )
    return manager.match_tasks(list(wanted))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
