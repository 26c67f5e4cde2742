"""A plugin's signature is its schema."""

from typing import NamedTuple

import pytest

from rlbench.plugins import build, typed_section
from rlbench.types import ConfigError, Count, Fraction, NonNegative, Positive


def plugin(model, *, clip: Positive, share: Fraction, group: Count, sizes: dict[str, Count]):
    return model, clip, share, group, sizes


NODE = {"_target_": "tests.core.test_plugins.plugin", "clip": 0.2, "share": 1, "group": 4, "sizes": {"width": 8}}


def test_a_good_node_is_called_with_what_the_core_gives_first():
    assert build(NODE, "algo", "the model") == ("the model", 0.2, 1, 4, {"width": 8})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": -0.1}, r"algo.clip=-0.1: input should be greater than 0"),
        ({"clip": float("nan")}, r"algo.clip=nan: input should be a finite number"),
        ({"clip": float("inf")}, r"algo.clip=inf: input should be a finite number"),
        ({"clip": "big"}, r"algo.clip=big: input should be a valid number"),
        ({"clip": True}, r"algo.clip=True: input should be a valid number"),
        ({"share": 1.1}, r"algo.share=1.1: input should be less than or equal to 1"),
        ({"share": float("nan")}, r"algo.share=nan: "),
        ({"group": 0}, r"algo.group=0: input should be greater than or equal to 1"),
        ({"group": 1.5}, r"algo.group=1.5: input should be a valid integer"),
        ({"sizes": {"width": 0}}, r"algo.sizes.width=0: "),
        ({"clap": 3}, r"algo.clap=3: unknown key; nearest: clip"),
        ({"_target_": "rlbench.nowhere"}, r"algo._target_=rlbench.nowhere: cannot be imported"),
        ({"_target_": 3}, r"algo._target_=3: the full name"),
    ],
)
def test_a_bad_node_names_the_key_the_value_and_what_is_allowed(change, message):
    with pytest.raises(ConfigError, match=message):
        build(NODE | change, "algo", "the model")


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match=r"algo.clip=\?\?\?: missing"):
        build({name: value for name, value in NODE.items() if name != "clip"}, "algo", "the model")


class Section(NamedTuple):
    rate: NonNegative
    top: Count = 3


def test_a_section_is_read_into_the_tuple_that_declares_it():
    assert typed_section(Section, {"rate": 0}, "section") == (0, 3)
    with pytest.raises(ConfigError, match=r"section\.rate=-1"):
        typed_section(Section, {"rate": -1}, "section")


def test_errors_survive_the_way_between_processes():
    import pickle

    error = ConfigError("algo.clip", -1, "greater than 0")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "algo.clip=-1: greater than 0"
