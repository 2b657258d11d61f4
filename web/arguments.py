"""What an endpoint or a route takes: names and types of its arguments, checked before anything is done with them.

Gradio answers a wrong name with a 500 and passes any type on. Knows nothing of what endpoints do.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import TypeAdapter

from errors import InputError

_NAMED = re.compile(r"/gradio_api/call/v2/([^/]+)/?")
MOST_TEXT = 10_000  # characters of one argument
_IN_ORDER = re.compile(r"/gradio_api/(?:call|run)/([^/]+)/?")


class Arguments:
    """Of one endpoint or route. Files are looked at elsewhere (`web/body.py`)."""

    def __init__(self, parameters: Mapping[str, inspect.Parameter]) -> None:
        self.defaults = {name: one.default for name, one in parameters.items()}
        self._types = {
            name: TypeAdapter[Any](one.annotation)
            for name, one in parameters.items()
            if "FileData" not in str(one.annotation)
        }

    @classmethod
    def after_first(cls, function: Callable[..., Any]) -> "Arguments":
        """What the caller gives; the first parameter is who they are."""
        return cls(dict(list(inspect.signature(function).parameters.items())[1:]))

    def named(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Each with its type; None is the default where there is one. InputError names the wrong one."""
        takes = f"It takes: {', '.join(self.defaults) or 'none'}."
        for name in set(given) - set(self.defaults):
            near = get_close_matches(name, self.defaults, 1)
            advice = f"Is {near[0]} meant?" if near else takes
            raise InputError("argument_unknown", f"There is no argument {_shown(name)}.", advice)
        checked = {}
        for name, default in self.defaults.items():
            value = given.get(name)
            if value is None and default is inspect.Parameter.empty:
                raise InputError("argument_missing", f"The argument {name} is missing.", takes)
            checked[name] = default if value is None else self._typed(name, value)
        return checked

    def in_order(self, given: list[Any]) -> None:
        """As many as there are, and no text too long."""
        for value in given:
            _short(value)
        names = list(self.defaults)
        if len(given) > len(names):
            raise InputError(
                "argument_unknown", "There are too many arguments.", f"Use {len(names)}."
            )
        if len(given) < len(names):
            missing = names[len(given)]
            advice = "Give all in order, or use /gradio_api/call/v2 and names."
            raise InputError("argument_missing", f"The argument {missing} is missing.", advice)

    def _typed(self, name: str, value: Any) -> Any:
        if name not in self._types:
            return value
        _short(value)
        try:
            found = self._types[name].validate_python(value)
            if not _as_true(value, found):
                raise ValueError("a truth value is no number")
        except ValueError as problem:  # pydantic's is one
            raise InputError(
                "argument_type",
                f"The argument {name} is not of its type.",
                "See /gradio_api/openapi.json.",
            ) from problem
        return found


class Calls:
    """All endpoints by name, and the number by which the queue knows each."""

    def __init__(self, by_name: Mapping[str, Arguments], by_number: Mapping[int, str]) -> None:
        self.by_name = by_name
        self.by_number = by_number

    def check(self, path: str, value: Any) -> None:
        """The body of a call: InputError unless it is one."""
        if not isinstance(value, dict):
            raise InputError("bad_body", "That is not JSON as Quire takes it.", "Send an object.")
        if found := _NAMED.fullmatch(path):
            given = {n: v for n, v in value.items() if n != "oauth_token"}
            self._endpoint(found[1]).named(given)
        elif found := _IN_ORDER.fullmatch(path):
            self._endpoint(found[1]).in_order(_listed(value))
        elif path == "/gradio_api/queue/join":
            number = value.get("fn_index")
            if not isinstance(number, int) or number not in self.by_number:
                raise _no_call()
            name = self.by_number[number]
            if name in self.by_name:  # else a part of the page
                self.by_name[name].in_order(_listed(value))

    def _endpoint(self, name: str) -> Arguments:
        if name not in self.by_name:
            raise _no_call()
        return self.by_name[name]


def _listed(value: Mapping[str, Any]) -> list[Any]:
    data = value.get("data")
    if not isinstance(data, list):
        raise InputError("bad_body", "That is not JSON as Quire takes it.", "Send data as a list.")
    return data


def _short(value: Any) -> None:
    """What a queue keeps of calls is small."""
    if isinstance(value, str) and len(value) > MOST_TEXT:
        raise InputError("bad_text", "That is no text, or too long.", "Give plain text.")


def _no_call() -> InputError:
    return InputError("call_unknown", "There is no such call.", "See /gradio_api/openapi.json.")


def _as_true(given: Any, found: Any) -> bool:
    """Whether truth values are still that; pydantic takes them for numbers."""
    if isinstance(given, list) and isinstance(found, list):
        return all(map(_as_true, given, found))
    return isinstance(found, bool) or not isinstance(given, bool)


def _shown(name: str) -> str:
    return "".join(filter(str.isprintable, name))[:60]
