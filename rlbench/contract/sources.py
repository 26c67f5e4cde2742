"""Places of a plugin's functions, and values in words."""

import contextlib
import functools
import inspect
import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..types import ConfigError, PluginError

KINDS = re.compile(r"^(float|int|uint|complex)(?=\d)")  # of dtypes, whose first letter says it


def expect(fine: Any, about: str, expected: str, came: str) -> None:
    """Raises PluginError unless it is fine."""
    if not fine:
        raise PluginError(about, expected, came)


def expect_of(value: Any, fine: Any, about: str, expected: str, sizes: Mapping[int, str] | None = None) -> None:
    """Raises PluginError, which describes the value, unless it is fine."""
    if not fine:
        raise PluginError(about, expected, described(value, sizes))


class Source:
    """Places of a plugin's functions.

    Args:
      maker: the function or class that its YAML names, where to look for want of anything nearer.
      functions: by the names that errors call them.
    """

    def __init__(self, maker: Any, functions: Mapping[str, Any]):
        self.maker, self.functions = maker, functions

    def of(self, about: str) -> str:
        """file:line of one of its functions, and the function's name."""
        return place(self.functions.get(about)) or place(self.maker) or repr(self.maker)

    def raised(self, error: BaseException) -> str | None:
        """file:line of the innermost frame of the plugin's files that an error passed; None if it passed none."""
        files = {file_of(function) for function in (self.maker, *self.functions.values())}
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
        return f"{near(frames[-1].filename)}:{frames[-1].lineno} {frames[-1].name}" if frames else None

    @contextlib.contextmanager
    def blamed(self, about: str) -> Iterator[None]:
        """Makes of what is raised within a PluginError that says where; an error of the config stays what it is.

        Args:
          about: the function to look at where an error names none and passed none.
        """
        try:
            yield
        except ConfigError:
            raise
        except PluginError as error:
            raise error.at(self.of(error.about)) from error
        except Exception as error:  # whatever a stranger's function may raise
            raise PluginError(about, "", raised(error)).at(self.raised(error) or self.of(about)) from error


def raised(error: BaseException) -> str:
    """An error's type and the first line of its text."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".rstrip(": ")


def unwrapped(function: Any) -> Any:
    """The function or class within partial applications and decorators; None where Python knows none."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function) if callable(function) else None
    return function if inspect.isfunction(function) or inspect.ismethod(function) or inspect.isclass(function) else None


def file_of(function: Any) -> str | None:
    """The file of a function or class; None if it stands in none."""
    try:
        return inspect.getsourcefile(unwrapped(function))
    except TypeError:
        return None


def place(function: Any) -> str | None:
    """file:line and name of a function or class; None if it stands in no file."""
    file, found = file_of(function), unwrapped(function)
    try:
        return f"{near(file)}:{inspect.getsourcelines(found)[1]} {found.__name__}" if file else None
    except OSError:
        return None


def near(file: str) -> Path:
    """The path as seen from here, where the file is below."""
    path, here = Path(file), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def described(value: Any, sizes: Mapping[int, str] | None = None) -> str:
    """A value in a few words: f32[3, 4], a tuple of 2, None.

    Args:
      sizes: names of dimensions, by which f32[3, 4] is f32[B, T].
    """
    if is_array(value):
        dimensions = ", ".join((sizes or {}).get(size, str(size)) for size in value.shape)
        return f"{KINDS.sub(lambda kind: kind[1][0], np.dtype(value.dtype).name)}[{dimensions}]"
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(str, value))}" if value else "an empty dict"
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return f"a {type(value).__name__} of {len(value)}"
    if value is None or inspect.isclass(value) or callable(value):
        return getattr(value, "__name__", repr(value))
    if isinstance(value, str | int | float):
        return f"{value!r:.80}, {with_article(type(value).__name__)}"
    return with_article(type(value).__name__)


def with_article(name: str) -> str:
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def is_array(value: Any) -> bool:
    """True of an array, of JAX or NumPy, and of what stands for one."""
    import jax  # here: what only prints help does without it

    return isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)
