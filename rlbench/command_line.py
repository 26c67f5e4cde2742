"""Command lines: of the tools beside `rlbench`, each described by the docstring of its file; and words for Hydra."""

import argparse
import re


def parser_of(name: str, docstring: str | None) -> argparse.ArgumentParser:
    """A parser without arguments, whose help is a docstring.

    Args:
      name: of the command.
      docstring: its first line stands above the arguments, the rest, as it is written, below them.
    """
    first, _, rest = (docstring or "").partition("\n")
    return argparse.ArgumentParser(
        name, description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def quoted(value: str) -> str:
    """A text as Hydra reads it."""
    return value if re.fullmatch(r"[\w./-]+", value) else "'" + value.replace("'", r"\'") + "'"
