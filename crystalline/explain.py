"""An exception as one line that says what is wrong and what to do about it."""

from __future__ import annotations

import difflib
import errno
import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig
from omegaconf.errors import (
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from crystalline.errors import UserError
from crystalline.usage import groups_of, options_of

_TRACEBACK = "HYDRA_FULL_ERROR=1 shows the traceback"
_UNEXPECTED = re.compile(r"(\S+?)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r"(\S+?)(?:\.__init__)?\(\) missing \d+ required .*?arguments?: (.*)")


def explain(
    error: BaseException,
    conf_dir: Path | None = None,
    config_name: str = "config",
    arguments: Sequence[str] = (),
) -> str:
    """The line for `error`.

    Args:
        error: What a task, or Hydra while it composed the config, has raised.
        conf_dir: The folder of config groups; with it, misspelt keys and options get suggestions.
        config_name: The root config that was composed.
        arguments: What the user typed.
    """
    cause = _root_cause(error)
    if isinstance(cause, UserError):
        return _one_line(cause)
    if isinstance(cause, MissingConfigException):
        return _unknown_option(cause, conf_dir)
    if isinstance(cause, OverrideParseException):
        return (
            f"cannot read {cause.override}; write key=value, and quote a value that holds"
            " any of ,={}[]()'\" twice: 'key=\"value\"'"
        )
    if isinstance(error, InstantiationException):
        return _failed_target(error, cause)
    if isinstance(error, ConfigCompositionException):
        return _bad_config(error, conf_dir, config_name, arguments)
    if isinstance(cause, MissingMandatoryValue):
        key = _detail(cause, "full_key")
        return f"{key} is not set; add {key}=<value>"
    if isinstance(cause, InterpolationResolutionError):
        said = _one_line(cause)
        why = said.partition("raised while resolving interpolation: ")[2]
        return f"{_detail(cause, 'full_key')}: {why}" if why else said
    if isinstance(cause, OmegaConfBaseException | HydraException):
        return _one_line(cause)
    return _ordinary(cause)


def suggest(name: str, valid: Iterable[str]) -> str:
    """What to append to a complaint about `name`: the closest valid name, and all of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    meant = f"; did you mean {close[0]}?" if close else ""
    return meant + (f"{' ' if meant else '; '}valid: {', '.join(names)}" if names else "")


def _root_cause(error: BaseException) -> BaseException:
    """What an instantiation failed of, below all the nodes that contain it."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _detail(error: BaseException, name: str) -> str:
    """The value of a line "name: value" in a message of OmegaConf or Hydra; "" without one."""
    found = re.search(rf"^\s*{name}: ?(.*)$", str(error), flags=re.MULTILINE)
    return found[1].strip() if found else ""


def _unknown_option(error: MissingConfigException, conf_dir: Path | None) -> str:
    wanted = error.missing_cfg_file or ""
    group, _, option = wanted.partition("/")
    known = options_of(conf_dir, group) if conf_dir else []
    while not known and "/" in option and conf_dir:  # a group may have several parts
        head, _, option = option.partition("/")
        group = f"{group}/{head}"
        known = options_of(conf_dir, group)
    if not option:
        return _one_line(error)
    return f"{group}={option}: there is no such {group}{suggest(option, known)}"


def _failed_target(error: InstantiationException, cause: BaseException) -> str:
    key = _innermost_key(error)
    where = f"{key}: " if key else ""
    text = _one_line(cause)
    unexpected = _UNEXPECTED.search(str(cause)) if isinstance(cause, TypeError) else None
    if unexpected:
        target = _innermost_target(error)
        valid = [name for name in _arguments_of(target) if not name.startswith("_")]
        name = f"{key}.{unexpected[2]}" if key else unexpected[2]
        return f"{name}: {target or unexpected[1]} has no such key{suggest(unexpected[2], valid)}"
    missing = _MISSING.search(str(cause)) if isinstance(cause, TypeError) else None
    if missing:
        return f"{where}{missing[1]} needs {missing[2]}; set them below {key or 'the node'}"
    if isinstance(cause, ValueError | HydraException | ImportError):
        return f"{where}{text}"
    return f"{where}{_ordinary(cause)}"


def _innermost_key(error: BaseException) -> str:
    key = ""
    while isinstance(error, InstantiationException):
        key = _detail(error, "full_key") or key
        if error.__cause__ is None:
            break
        error = error.__cause__
    return key


def _innermost_target(error: BaseException) -> str:
    target = ""
    while isinstance(error, InstantiationException):
        found = re.search(r"target '([\w.]+)'|partial\(([\w.]+)", str(error))
        target = (found[1] or found[2]) if found else target
        if error.__cause__ is None:
            break
        error = error.__cause__
    return target


def _arguments_of(target: str) -> list[str]:
    """Keyword arguments of a class or function given by its dotted path."""
    from hydra.utils import get_object

    try:
        parameters = inspect.signature(get_object(target)).parameters.values()
    except Exception:  # whatever importing it does: there is then nothing to suggest
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _bad_config(
    error: ConfigCompositionException,
    conf_dir: Path | None,
    config_name: str,
    arguments: Sequence[str],
) -> str:
    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _unknown_key(unknown[1], conf_dir, config_name, arguments)
    no_group = re.search(r"config group '([^']+)' does not exist", text)
    if no_group and conf_dir:
        groups = _groups(conf_dir, config_name)
        return f"{no_group[1]}: there is no such group{suggest(no_group[1], groups)}"
    in_file = re.search(r"In '([^']+)': \w+ raised while composing config", text)
    if in_file:
        return _unknown_key_in_file(in_file[1], text)
    if "Ambiguous value for argument" in text:
        return f"{_one_line(error)}; add -m for a sweep, or quote the value: 'key=\"a,b\"'"
    wrong = re.search(r"Error merging override (.*)", text)
    cause = error.__cause__
    if wrong and cause is not None:
        return f"{wrong[1]}: {_wrong_value(cause)}"
    if not text.strip() and cause is not None:
        return _one_line(cause)
    return _one_line(error)


def _wrong_value(cause: BaseException) -> str:
    if "of type 'dict'" in str(cause):
        return "the key is a value, it has no keys below"
    return _one_line(cause)


def _unknown_key_in_file(file: str, text: str) -> str:
    from crystalline.command import Run

    key = re.search(r"Key '([^']+)' not in '(\w+)'", text)
    if key:
        valid = [name for name in Run.__dataclass_fields__]
        return f"conf/{file}.yaml: there is no key {key[1]}{suggest(key[1], valid)}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"conf/{file}.yaml: {lines[1] if len(lines) > 1 else lines[0]}"


def _unknown_key(
    key: str, conf_dir: Path | None, config_name: str, arguments: Sequence[str]
) -> str:
    """A key of the command line that the config does not have."""
    config = _compose(conf_dir, config_name, arguments) if conf_dir else None
    if config is None:
        return f"{key}: there is no such key; --cfg job shows all"
    node: Any = config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, DictConfig):
            return f"{key}: {'.'.join(parts[:depth])} is a value, it has no keys below"
        if part not in node:
            groups = _groups(conf_dir, config_name) if depth == 0 else []
            return _no_such_key(key, ".".join(parts[: depth + 1]), part, node, groups)
        node = node._get_node(part)
    return f"{key}: there is no such key; --cfg job shows all"


def _no_such_key(key: str, prefix: str, part: str, node: DictConfig, groups: Sequence[str]) -> str:
    accepted = _arguments_of(str(node._get_node("_target_"))) if "_target_" in node else []
    if part in accepted and prefix == key:
        return f"{key} is left at its default by the config; write +{key}=<value> to set it"
    valid = [str(name) for name in node if not str(name).startswith("_") and name != "hydra"]
    return f"{prefix}: there is no such key{suggest(part, {*valid, *groups})}"


def _groups(conf_dir: Path | None, config_name: str) -> list[str]:
    path = conf_dir / f"{config_name}.yaml" if conf_dir else None
    return [name for name, _, _ in groups_of(path, conf_dir)] if path and conf_dir else []


def _compose(conf_dir: Path, config_name: str, arguments: Sequence[str]) -> DictConfig | None:
    """The config with only the user's choices of groups, to look up which keys there are."""
    from hydra import compose, initialize_config_dir

    choices = [a for a in arguments if "," not in a and _is_choice(a, conf_dir)]
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        for overrides in (choices, []):
            try:
                return compose(config_name, overrides)
            except Exception:  # another argument is wrong as well
                continue
    return None


def _is_choice(argument: str, conf_dir: Path) -> bool:
    key, equals, _ = argument.partition("=")
    group = key.lstrip("+~").split("@")[0]
    return bool(equals and group) and (conf_dir / group).is_dir()


def _ordinary(error: BaseException) -> str:
    """Errors that come from neither the config nor our own checks."""
    kind = type(error).__name__
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" ({error.filename})" if error.filename else ""
        return f"the disk is full{where}; free some space, then resume from checkpoints/last.ckpt"
    if isinstance(error, MemoryError):
        return "out of memory; a smaller batch or model needs less"
    if kind == "OutOfMemoryError":
        return "out of GPU memory; a smaller batch or model needs less"
    if kind == "MisconfigurationException":
        return _one_line(error)
    if isinstance(error, RuntimeError) and "No space left on device" in str(error):
        return "the disk is full; free some space, then resume from checkpoints/last.ckpt"
    return f"{kind}: {_one_line(error)}; {_TRACEBACK}"
