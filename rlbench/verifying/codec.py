"""Python values as typed trees in JSON, exactly: what goes into the sandbox, and what comes out.

Standard library only: the sandbox loads this file by its path. A tree is [tag, content]. Types are
exact: a bool is no int, and of an instance of any other class only the name is told.
"""

import collections
import json
from typing import Any, NoReturn

Tree = list  # [tag, content]

SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
OTHER = "other"  # a value of any other type: equal to nothing
TAGS: dict[type, str] = {kind: tag for tag, kind in SEQUENCES.items()} | {
    kind: kind.__name__ for kind in (bool, int, float, complex, str, bytes, dict)
}
TAGS[type(None)] = "none"
for kind in (collections.Counter, collections.OrderedDict, collections.defaultdict):
    TAGS[kind] = "dict"  # whose content is all there is to them

DEPTH = 64  # how deep a value may be nested
SIZE = 1_000_000  # nodes and characters of a value
BITS = 64_000  # of an integer


class Unencodable(ValueError):
    """A value that is too deep or too large, or a tree that is no value."""


class Opaque:
    """Stands for a value of any other type: equal to nothing but itself, neither true nor false, and of no use."""

    def __bool__(self) -> bool:
        raise TypeError("no plain value: neither true nor false")


def encode(value: Any, plain: bool = False) -> Tree:
    """A value as a tree.

    Args:
      plain: whether it has to be one that can be decoded again.

    Raises:
      Unencodable: it is too deep or too large, or not plain.
    """
    left = SIZE

    def walk(value: Any, depth: int) -> Tree:
        nonlocal left
        tag = TAGS.get(type(value), OTHER)
        left -= 1 + (len(value) if tag in ("str", "bytes") else 0)
        if depth > DEPTH or left < 0:
            raise Unencodable("nested too deep" if depth > DEPTH else "too large")
        match tag:
            case "none":
                return [tag, None]
            case "bool":
                return [tag, int(value)]
            case "int":
                if value.bit_length() > BITS:
                    raise Unencodable(f"an integer of more than {BITS:,} bits")
                return [tag, format(value, "x")]
            case "float":
                return [tag, float.hex(value)]
            case "complex":
                return [tag, [float.hex(value.real), float.hex(value.imag)]]
            case "str":
                return [tag, value.encode("utf-8", "surrogatepass").hex()]
            case "bytes":
                return [tag, value.hex()]
            case "dict":
                return [tag, [[walk(key, depth + 1), walk(item, depth + 1)] for key, item in dict.items(value)]]
            case "other":
                if plain:
                    raise Unencodable(f"{type(value).__name__} is no plain value")
                return [tag, type(value).__name__[:80]]
        return [tag, [walk(item, depth + 1) for item in value]]

    return walk(value, 0)


def decode(tree: Any, depth: int = 0) -> Any:
    """The value of a tree that nobody vouches for; within the bounds of encode, but for the size of its text.

    Raises:
      Unencodable: it is none.
    """
    try:
        tag, content = tree
        if depth > DEPTH or (tag == "int" and 4 * len(content) > BITS + 8):
            raise Unencodable("too deep or too long")
        match tag:
            case "none":
                return None
            case "bool":
                return bool(content)
            case "int":
                return int(content, 16)
            case "float":
                return float.fromhex(content)
            case "complex":
                return complex(*(float.fromhex(part) for part in content))
            case "str":
                return bytes.fromhex(content).decode("utf-8", "surrogatepass")
            case "bytes":
                return bytes.fromhex(content)
            case "dict":
                return {decode(key, depth + 1): decode(value, depth + 1) for key, value in content}
            case "other":
                return Opaque()
        return SEQUENCES[tag](decode(item, depth + 1) for item in content)
    except Unencodable:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Unencodable(f"no tree of a value: {error}") from None


def canonical(tree: Any, depth: int = 0) -> str:
    """A tree as text that is the same for equal values, and for none else: sets and dicts in one order, one zero.

    Raises:
      Unencodable: the tree is of no value, or of one that is equal to nothing (NaN, instances of other classes).
    """
    if type(tree) is not list or len(tree) != 2 or depth > DEPTH:
        raise Unencodable("no tree of a value")
    tag, content = tree
    if type(tag) is not str:
        raise Unencodable("no tree of a value")
    if tag in ("float", "complex"):
        parts = [content] if tag == "float" else content
        if type(parts) is not list or any(type(part) is not str or "nan" in part for part in parts):
            raise Unencodable("not a number")
        return json.dumps([tag, ["0x0.0p+0" if part == "-0x0.0p+0" else part for part in parts]])
    if tag == "dict" and type(content) is list:
        pairs = [canonical(["tuple", pair], depth + 1) for pair in content]
        return f"[{tag} {' '.join(sorted(pairs))}]"
    if tag in SEQUENCES and type(content) is list:
        items = [canonical(item, depth + 1) for item in content]
        return f"[{tag} {' '.join(sorted(items) if 'set' in tag else items)}]"
    if (tag in ("int", "str", "bytes") and type(content) is str) or (tag, content) == ("none", None):
        return json.dumps(tree)
    if tag == "bool" and type(content) is int and content in (0, 1):
        return json.dumps(tree)
    raise Unencodable(f"{tag} {content}" if tag == OTHER else "no tree of a value")


def same(answer: Any, expected: str) -> bool:
    """True if an answer, a tree that nobody vouches for, is exactly the expected one, which is canonical."""
    try:
        return canonical(answer) == expected
    except (Unencodable, RecursionError):
        return False


def small(digits: str) -> int:
    """The integer of a JSON text. Reading a long one takes the square of its length, and ours are short."""
    if len(digits) > 20:
        raise ValueError("a number too long")
    return int(digits)


def refuse(number: str) -> NoReturn:
    raise ValueError(f"floats are texts: {number[:20]}")


DECODER = json.JSONDecoder(parse_int=small, parse_float=refuse, parse_constant=refuse)
COLONS = 1000  # in a line: many keys may be chosen to collide, where the seed of hashes is known


def parse_line(line: bytes) -> dict[str, Any]:
    """A line of JSON that nobody vouches for, as an object; an empty one where it is none.

    It takes time in proportion to its length, whatever it holds.
    """
    try:
        value = DECODER.decode(line.decode("ascii")) if line.count(b":") <= COLONS else None
    except (ValueError, RecursionError):
        return {}
    return value if type(value) is dict else {}
