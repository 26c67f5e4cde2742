"""Values as typed trees: exact, bounded, and equal to themselves alone."""

import json
import sys
import time

import pytest

from rlbench.verifying.codec import Unencodable, canonical, decode, encode, parse_line, same

VALUES = [
    None, True, False, 0, 1, -1, 2**200, 0.0, 1.5, float("inf"), 1j, "", "ß🎉\ud800\x00", b"\x00", [], (),
    [1, [2, (3,)]], {1: "a", "b": [2]}, set(), {1, 2}, frozenset({1}), {(1, 2): {3: frozenset({4})}},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_come_back_exactly(value):
    tree = json.loads(json.dumps(encode(value)))
    back = decode(tree)
    assert back == value and type(back) is type(value)
    assert same(tree, canonical(encode(value)))
    others = [other for other in VALUES if other is not value]
    assert not [other for other in others if same(tree, canonical(encode(other)))], "equal to itself alone"


def test_what_is_equal_to_nothing():
    for value in (float("nan"), complex(0, float("nan")), [float("nan")], object(), type("I", (int,), {})(3)):
        with pytest.raises(Unencodable):
            canonical(encode(value))
        assert not same(encode(value), json.dumps(encode(value)))


def test_order_matters_only_where_there_is_one():
    assert same(encode({1: 2, 3: 4}), canonical(encode({3: 4, 1: 2})))
    tag, items = encode(set(range(100)))
    assert canonical([tag, items]) == canonical([tag, items[::-1]])
    assert not same(encode([1, 2]), canonical(encode([2, 1])))
    assert same(encode(-0.0), canonical(encode(0.0)))


def test_what_is_too_deep_or_too_large_is_refused():
    deep: list = []
    for _ in range(100):
        deep = [deep]
    loop: list = []
    loop.append(loop)
    for value in (deep, loop, "x" * 2_000_000, 1 << 100_000, list(range(1_000_001))):
        with pytest.raises(Unencodable):
            encode(value)


def test_what_a_program_says_is_decoded_within_bounds():
    deep: list = ["none", None]
    for _ in range(65):
        deep = ["list", [deep]]
    for tree in (
        deep,
        ["int", "f" * 20_000],
        ["float", "0x1p+9999"],
        ["set", [["list", []]]],
        ["no", 1],
        [],
        None,
        "xy",
    ):
        with pytest.raises(Unencodable):
            decode(tree)
    opaque = decode(["other", "int"])
    assert opaque == opaque and opaque != decode(["other", "int"]) and type(opaque) is not int
    for use in (bool, int, len, iter, lambda x: x + 1, lambda x: x < 1, lambda x: x.real, lambda x: x()):
        with pytest.raises((TypeError, AttributeError)):
            use(opaque)


@pytest.mark.parametrize(
    "line",
    [
        b'{"test": ' + b"9" * 975_000 + b"}",
        b'{"test": -' + b"9" * 975_000 + b"}",
        b'{"test": [' + b"9" * 975_000 + b"]}",
        b'{"test": 0.' + b"9" * 975_000 + b"}",
        b'{"test": 9e' + b"9" * 975_000 + b"}",
        b'{"value": ' + b"[" * 975_000,
        b'{"value": ' + b'{"":' * 240_000,
        b"{" + b",".join(b'"%d":0' % n for n in range(90_000)) + b"}",
        b'{"value": "' + b"\\ud800" * 160_000 + b'"}',
        b"[" + b"1," * 480_000 + b"1]",
        b"\xff" * 975_000,
    ],
    ids=lambda line: repr(line[:16]),
)
def test_a_line_takes_time_as_it_is_long(line):
    """Whatever it holds, also where the host reads integers of any length; one of 975,000 digits takes 15 s."""
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    began = time.thread_time()
    try:
        parse_line(line)
    finally:
        sys.set_int_max_str_digits(digits)
    assert time.thread_time() - began < 3
