"""Comments as documentation: of a field or a constant, what its line says after it, such as `# f32[B, T]`."""

import io
import tokenize
from typing import Any

import griffe


class Comments(griffe.Extension):
    """An extension of griffe, which reads the code for the reference."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Takes the comment of an attribute that has no docstring."""
        if attr.docstring or attr.lineno is None:
            return
        text = "".join(attr.lines_collection[attr.filepath][attr.lineno - 1])
        if comment := comment_of(text):
            attr.docstring = griffe.Docstring(comment, lineno=attr.lineno, parent=attr)


def comment_of(text: str) -> str:
    """The comment of a line of code; empty where it has none, or where the line is a part of an expression."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text.strip()).readline))
    except (tokenize.TokenError, SyntaxError):
        return ""
    return " ".join(token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT)
