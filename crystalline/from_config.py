"""Objects of a config: `hydra.utils.instantiate`, with values checked against what is asked for."""

from __future__ import annotations

import inspect
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin

from hydra.utils import get_object, instantiate
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from crystalline.errors import UserError

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_LISTS = (list, tuple, Sequence, Iterable)
_PLAIN = (bool, int, float, str, list, dict, types.NoneType)
_OBJECT = "a node with _target_"
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def from_config(node: Any, **values: Any) -> Any:
    """What `_target_` of `node` makes of the node's values and of `values`, which win.

    Raises:
        UserError: If a value of the node, or of a node below it, is of another type than the
            target's annotation names; the line names the key.
    """
    check(node, given=values)
    return instantiate(node, _convert_="all", **values)


def check(node: Any, given: Collection[str] = ()) -> None:
    """Compare the values of a node, and of nodes below it, with the annotations of its target.

    Annotations of other than plain types, and targets without any, ask for nothing.

    Args:
        node: Of a composed config, so that its keys have names and its interpolations values.
        given: Names of values that are not the config's; its own are not looked at.

    Raises:
        UserError: As of `from_config`.
    """
    if isinstance(node, ListConfig):
        for number in range(len(node)):
            if OmegaConf.is_missing(node, number):
                raise UserError(f"{node._get_full_key(number)} is not set; give it a value")
            check(node[number])
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return
    hints = annotations_of(str(node._target_)) if "_target_" in node else {}
    for name in node:
        if name in given or OmegaConf.is_missing(node, name):
            continue
        value = node[name]
        check(value)
        if str(name) in hints:
            _check_value(node, str(name), value, hints[str(name)])


def _check_value(node: DictConfig, name: str, value: Any, hint: Any) -> None:
    if isinstance(value, DictConfig | ListConfig):
        if isinstance(value, DictConfig) and "_target_" in value:
            return  # an object
        value = OmegaConf.to_container(value, resolve=True)
    if value is None and node.get("_partial_"):
        return  # who completes the node gives the value
    values = {node._get_full_key(name): value}
    if isinstance(value, dict):
        for kind in _members(hint):
            if _is_mapping(kind) and len(get_args(kind)) == 2:
                values = {f"{node._get_full_key(name)}.{key}": each for key, each in value.items()}
                hint = get_args(kind)[1]
    for key, each in values.items():
        if each == MISSING:
            raise UserError(f"{key} is not set; add {key}=<value>")
        if not fits(each, hint):
            raise UserError(f"{key}={_shown(each)}: must be {said(hint)}")


@cache
def annotations_of(target: str) -> dict[str, Any]:
    """By name, the annotations of a callable's arguments; none where they cannot be read.

    A class that passes keywords on has those of the classes that it is made of, too.
    """
    hints: dict[str, Any] = {}
    try:
        found = get_object(target)
        for each in inspect.getmro(found) if inspect.isclass(found) else (found,):
            if inspect.isclass(found) and "__init__" not in vars(each):
                continue
            parameters = inspect.signature(each, eval_str=True).parameters.values()
            passed_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
            named = (p for p in parameters if p.kind in _NAMED and p.annotation is not p.empty)
            hints = {p.name: p.annotation for p in named} | hints
            if not passed_on:
                break
    except Exception:  # instantiation will say what is wrong with a target
        return {}
    return hints


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; True where that cannot be told.

    Plain values, and lists and mappings of them, are of no class but their own.
    """
    if hint in (None, types.NoneType):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        wanted = int if hint is int else int | float
        return isinstance(value, wanted) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    origin, arguments = get_origin(hint), get_args(hint)
    if len(_members(hint)) > 1:
        return any(fits(value, each) for each in _members(hint))
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in arguments)
    kind = origin or hint
    if not inspect.isclass(kind):
        return True
    if _is_mapping(hint):
        return isinstance(value, dict) and (
            len(arguments) != 2 or all(fits(each, arguments[1]) for each in value.values())
        )
    if kind in _LISTS:
        inner = [each for each in arguments if each is not ...]
        if len(inner) == 1:
            inner *= len(value) if isinstance(value, list) else 0
        return isinstance(value, list) and (
            not arguments or (len(value) == len(inner) and all(map(fits, value, inner)))
        )
    if issubclass(kind, PurePath):
        return isinstance(value, str)
    made = isinstance(value, dict) and "_target_" in value
    return kind in (Any, object) or made or not isinstance(value, _PLAIN)


def _members(hint: Any) -> tuple[Any, ...]:
    """Of a union; of another type that one."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_mapping(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    return inspect.isclass(kind) and issubclass(kind, Mapping)


def said(hint: Any) -> str:
    """An annotated type in a user's words: "a whole number, or null"."""
    if hint in (None, types.NoneType):
        return "null"
    members = _members(hint)
    choices = [str(c) for each in members if get_origin(each) is Literal for c in get_args(each)]
    if choices:
        words = [f"one of {', '.join(dict.fromkeys(choices))}"]
        words += [said(each) for each in members if get_origin(each) is not Literal]
        return ", or ".join(words)
    if len(members) > 1:
        words = list(dict.fromkeys(said(each) for each in members))
        return ", or ".join([each for each in words if each != _OBJECT] or words)
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in _WORDS:
        return _WORDS[kind]
    if _is_mapping(hint):
        return "keys with values"
    if kind in _LISTS:
        inner = [each for each in arguments if each is not ...]
        count = f" of {len(inner)}" if len(inner) > 1 else ""
        return f"a list{count}, each {said(inner[0])}" if inner else "a list"
    return "text" if inspect.isclass(kind) and issubclass(kind, PurePath) else _OBJECT


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
