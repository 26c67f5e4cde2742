"""From config nodes to objects. A plugin's signature is its schema: names, types and ranges are checked here."""

import difflib
import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from hydra.utils import get_object
from omegaconf import OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

from .types import ConfigError

STRICT = ConfigDict(arbitrary_types_allowed=True)


def build(node: Any, key: str, *given: Any) -> Any:
    """Calls the node's `_target_` with `given` and the node's other keys, once each is known to be allowed.

    Args:
      node: a config with a `_target_`, the full name of a function or class.
      key: where the node stands in the config, for errors.
      given: what the core passes first, by position.

    Raises:
      ConfigError: a key is unknown or missing, or a value is of the wrong type or out of range.
    """
    settings = dict(plain(node))
    target = settings.pop("_target_", None)
    if not isinstance(target, str):
        raise ConfigError(f"{key}._target_", target, "the full name of a function or class")
    try:
        function = get_object(target)
    except Exception as error:  # whatever importing a stranger's module may raise
        raise ConfigError(f"{key}._target_", target, f"cannot be imported: {error}") from error
    arguments = checked(function, settings, key, skip=len(given))
    try:
        return function(*given, **arguments)
    except ConfigError as error:
        within = [name for name, value in arguments.items() if isinstance(value, Mapping) and error.args[0] in value]
        raise error.below(".".join([key, *within])) from None


def read(kind: Callable[..., Any], node: Any, key: str) -> Any:
    """A section of the config as the NamedTuple that declares it; errors as in `build`."""
    return kind(**checked(kind, plain(node), key))


def checked(function: Callable[..., Any], settings: Mapping[str, Any], key: str, skip: int = 0) -> dict[str, Any]:
    """The settings, held to the names and annotations of a function's parameters."""
    parameters = dict(list(inspect.signature(function).parameters.items())[skip:])
    for name in settings:
        if name not in parameters:
            raise ConfigError(f"{key}.{name}", settings[name], f"unknown key{nearest(name, parameters)}")
    for name, parameter in parameters.items():
        if name not in settings and parameter.default is parameter.empty:
            raise ConfigError(f"{key}.{name}", "???", "missing")
    owner = function if hasattr(function, "_fields") or not inspect.isclass(function) else function.__init__
    hints = typing.get_type_hints(owner, include_extras=True)
    return {name: valid(hints.get(name, Any), value, f"{key}.{name}") for name, value in settings.items()}


def valid(kind: Any, value: Any, key: str) -> Any:
    """The value, if it is of the annotated kind; strictly: a string is no number, true is no 1."""
    try:
        return TypeAdapter(kind, config=None if hasattr(kind, "_fields") else STRICT).validate_python(
            value, strict=True
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([key, *(str(part) for part in first["loc"])])
        raise ConfigError(where, first["input"], first["msg"][0].lower() + first["msg"][1:]) from None


def plain(node: Any) -> Any:
    """A config node as dicts and lists, interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def nearest(name: str, known: Collection[str]) -> str:
    """The known names nearest to a misspelt one, or all where none is near and they are few; ends a sentence."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"; nearest: {', '.join(close)}"
    return f"; known: {', '.join(sorted(known))}" if len(known) <= 12 else ""
