"""The text that `--help` prints."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

_PART = re.compile(r"^\s*- (?:override )?/([\w/]+)@([\w.]+):", flags=re.MULTILINE)
_OURS = ("run_schema", "_self_", "hydra", "paths")


def usage(command: str, module: str, conf_dir: Path, config_name: str) -> str:
    """What the command does, its groups with their choices, and its own keys.

    Args:
        command: Name after "crystalline.".
        module: Name of the loaded command module; its docstring says what the command does.
        conf_dir: The folder of config groups.
        config_name: The root config.
    """
    path = conf_dir / f"{config_name}.yaml"
    what = (sys.modules[module].__doc__ or "").strip()
    lines = [
        f"python -m crystalline.{command} [key=value ...] [-m for a sweep: key=a,b,c]",
        "",
        what,
    ]
    groups = groups_of(path, conf_dir)
    groups += _parts([name for name, _, _ in groups], conf_dir)
    if groups:
        lines += ["", "Groups (group=choice; * is the default)"]
        width = max(len(name) for name, _, _ in groups)
        for name, default, options in groups:
            marked = [f"*{o}" if o == default else o for o in options]
            lines.append(f"  {name:<{width}}  {' '.join(marked)}")
    lines += ["", "Keys", *(f"  {line}" for line in _own_keys(path))]
    lines += ["", "--cfg job shows every key with its value; HYDRA_FULL_ERROR=1 shows tracebacks."]
    return "\n".join(lines) + "\n"


def options_of(conf_dir: Path, group: str) -> list[str]:
    """Names that a group can be set to, those of folders below it included ("vocab/v8_graph")."""
    folder = conf_dir / group
    if not folder.is_dir():
        return []
    names = (path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    return sorted(n for n in names if not any(part.startswith("_") for part in n.split("/")))


def groups_of(path: Path, conf_dir: Path) -> list[tuple[str, str | None, list[str]]]:
    """Name, default and options of every group that a root config chooses from."""
    root = OmegaConf.load(path)
    found = []
    defaults = root.get("defaults", []) if isinstance(root, DictConfig) else []
    for entry in defaults if isinstance(defaults, ListConfig) else []:
        if not isinstance(entry, DictConfig):
            continue
        for key, default in entry.items():
            name = str(key).removeprefix("override ").split("@")[0].strip("/ ")
            options = options_of(conf_dir, name)
            if name.split("/")[0] not in _OURS and options:
                found.append((name, default, options))
    return found


def _parts(groups: list[str], conf_dir: Path) -> list[tuple[str, str | None, list[str]]]:
    """Parts that are chosen inside a group ("quantizer@model.quantizer"), with their options."""
    found: dict[str, list[str]] = {}
    for group in groups:
        for path in sorted((conf_dir / group).rglob("*.yaml")):
            for part, name in _PART.findall(path.read_text(encoding="utf-8")):
                found[f"{part}@{group}.{name}"] = options_of(conf_dir, part)
    return [(name, None, options) for name, options in found.items()]


def _own_keys(path: Path) -> list[str]:
    """The root config's own lines, with their comments, as they stand in the file."""
    text = path.read_text(encoding="utf-8")
    body = re.sub(r"^defaults:.*\n(?:[ \t-].*\n|\n)*", "", text, flags=re.MULTILINE)
    body = re.sub(r"^hydra:.*\n(?:[ \t].*\n|\n)*", "", body, flags=re.MULTILINE)
    return [line for line in body.splitlines() if line.strip() and not line.startswith("#")]
