"""From config nodes to objects. A plugin's signature is its schema: names, types and ranges are checked here."""

import difflib
import importlib
import inspect
import traceback
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from omegaconf import OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

from .contract.sources import Source, described, near, raised, with_article
from .types import ConfigError, PluginError

STRICT = ConfigDict(arbitrary_types_allowed=True)


def build(node: Any, key: str, *given: Any, kind: type = object) -> Any:
    """Calls the node's `_target_` with `given` and the node's other keys, once each is known to be allowed.

    Args:
      node: a config with a `_target_`, the full name of a function or class.
      key: where the node stands in the config, for errors.
      given: what the core passes first, by position.
      kind: of what it has to return.

    Raises:
      ConfigError: a key is unknown or missing, or a value is of the wrong type or out of range.
      PluginError: the function takes or returns something else, or it raised.
    """
    function, settings = target_of(node, key)
    source = Source(function, {})
    with source.blamed("maker"):
        arguments = checked(function, settings, key, skip=len(given))
        try:
            made = function(*given, **arguments)
        except ConfigError as error:
            within = [
                name for name, value in arguments.items() if isinstance(value, Mapping) and error.args[0] in value
            ]
            raise error.below(".".join([key, *within])) from None
        if not isinstance(made, kind):
            raise PluginError(
                "maker", f"to return {with_article(kind.__name__)}", described(made) + lacking(made, kind)
            )
    return made


def lacking(made: Any, kind: type) -> str:
    """Names that a protocol asks for and an object does not have; ends a sentence."""
    names = [] if made is None or hasattr(kind, "_fields") else sorted({*kind.__annotations__, *vars(kind)})
    missing = [name for name in names if not name.startswith("_") and not hasattr(made, name)]
    return f" without {', '.join(missing)}" if missing else ""


def target_of(node: Any, key: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function or class that a node names, and the node's other keys.

    Raises:
      ConfigError: there is none by this name.
    """
    if not isinstance(node := plain(node), Mapping):
        raise ConfigError(key, node, "a section with a _target_, the full name of a function or class")
    settings = dict(node)
    target = settings.pop("_target_", None)
    if not isinstance(target, str):
        raise ConfigError(f"{key}._target_", target, "the full name of a function or class")
    try:
        function = imported(target)
    except Exception as error:  # whatever importing a stranger's module may raise
        frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        theirs = [x for x in frames if x[0] not in (__file__, importlib.__file__) and not x[0].startswith("<frozen")]
        where = f"{near(theirs[-1][0])}:{theirs[-1][1]}: " if theirs else ""
        raise ConfigError(f"{key}._target_", target, f"cannot be imported: {where}{raised(error)}") from error
    if not callable(function):
        raise ConfigError(f"{key}._target_", target, "the full name of a function or class")
    return function, settings


def imported(name: str) -> Any:
    """The object of a full name. Modules in it are imported; what importing one raises is raised."""
    first, *others = name.split(".")
    found, path = importlib.import_module(first), first
    for part in others:
        path = f"{path}.{part}"
        if not hasattr(found, part) and inspect.ismodule(found) and hasattr(found, "__path__"):
            importlib.import_module(path)
        found = getattr(found, part)
    return found


def typed_section(kind: Callable[..., Any], node: Any, key: str) -> Any:
    """A section of the config as the NamedTuple that declares it; errors as in `build`."""
    return kind(**checked(kind, plain(node), key))


def checked(function: Callable[..., Any], settings: Mapping[str, Any], key: str, skip: int = 0) -> dict[str, Any]:
    """The settings, held to the names and annotations of a function's parameters, less the first ones by position."""
    everything = inspect.signature(function)
    positional, others = list(everything.parameters.items())[:skip], list(everything.parameters.items())[skip:]
    parameters = {name: x for name, x in others if x.kind not in (x.VAR_POSITIONAL, x.VAR_KEYWORD)}
    if len(positional) < skip or any(parameter.kind == parameter.KEYWORD_ONLY for _, parameter in positional):
        raise PluginError("maker", f"{skip} argument by position, and then the keys of its YAML", str(everything))
    for name in settings:
        if name not in parameters:
            raise ConfigError(f"{key}.{name}", settings[name], f"unknown key{nearest(str(name), parameters)}")
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
    return f"; known: {', '.join(sorted(known))}" if 0 < len(known) <= 12 else ""
