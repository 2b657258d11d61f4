"""Values between a process and one that it does not trust: JSON, read by declared types.

The signature of a function says what its arguments and its answer are; what arrives is built from JSON as
that type or is a ValueError. Nothing that arrives names a class or runs code. Knows nothing of processes.
"""

import base64
import importlib
import json
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import errors
from errors import QuireError


def packed(value: Any) -> bytes:
    """One line of JSON. Paths, bytes and values made of fields are of use to `typed` only."""
    return json.dumps(value, default=_plain, separators=(",", ":")).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, set | frozenset):
        return sorted(value)
    if is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not sent between processes")


def typed(kind: Any, value: Any) -> Any:
    """The JSON value as one of that type; ValueError when it is not one."""
    origin, of = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return value
    if origin in {Union, types.UnionType}:
        if value is None and types.NoneType in of:
            return None
        (kind,) = (one for one in of if one is not types.NoneType)
        return typed(kind, value)
    if kind is Path:
        return Path(_is(str, value))
    if kind is bytes:
        return base64.b64decode(_is(str, value), validate=True)
    if kind is float:
        return _is((int, float), value)
    if is_dataclass(kind) or hasattr(kind, "_fields"):
        return _of_fields(kind, value)
    if issubclass(origin, Mapping):
        names, values = of or (str, Any)
        return {names(k): typed(values, v) for k, v in _is(dict, value).items()}
    if issubclass(origin, tuple) and of[1:] != (...,):
        return tuple(typed(one, part) for one, part in zip(of, _is(list, value), strict=True))
    if issubclass(origin, Collection) and origin is not str:
        made = origin if issubclass(origin, tuple | set | frozenset) else list
        return made(typed(of[0], part) for part in _is(list, value))
    return _is(origin, value)


def _of_fields(kind: Any, value: Any) -> Any:
    """A dataclass is an object of its fields, a named tuple a list."""
    known = _hints(kind)
    given = (
        _is(dict, value) if is_dataclass(kind) else dict(zip(known, _is(list, value), strict=True))
    )
    try:
        return kind(**{name: typed(known[name], part) for name, part in given.items()})
    except (KeyError, TypeError) as problem:
        raise ValueError(f"not a {kind}") from problem


def _is(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"a {type(value).__name__} came")
    return value


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


# Functions by name, and what they take and give


def name_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def named(name: str) -> Callable[..., Any]:
    module, _, qualified = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), qualified)
    return found


def arguments(function: Callable[..., Any], given: Sequence[Any]) -> list[Any]:
    """The JSON values as the types of the function's parameters."""
    kinds = [kind for name, kind in _hints(function).items() if name != "return"]
    kinds += [Any] * (len(given) - len(kinds))
    return [typed(kind, value) for kind, value in zip(kinds, given, strict=False)]


def answers_of(function: Callable[..., Any]) -> tuple[Any, bool]:
    """The type of its answer, and whether it yields several of that type."""
    kind = _hints(function).get("return", Any)
    yields = get_origin(kind) is Iterator
    return get_args(kind)[0] if yields else kind, yields


# Errors


def packed_error(problem: QuireError) -> dict[str, Any]:
    return {"kind": type(problem).__name__, **problem.as_dict()}


def error(told: Any) -> QuireError:
    """The error that another process tells of; ValueError when it is none of ours. `errors.unpacked`
    takes more, and believes who packed it."""
    given, known = typed(dict[str, str], told), errors.kinds()
    if given.keys() != {"kind", "code", "message", "advice"} or given["kind"] not in known:
        raise ValueError("not an error of ours")
    return known[given["kind"]](given["code"], given["message"], given["advice"])
