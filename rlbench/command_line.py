"""Command lines of the tools beside `rlbench`: each is described by the docstring of its file."""

import argparse


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
