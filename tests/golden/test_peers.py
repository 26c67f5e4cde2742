"""Our algorithms against numbers that TRL, verl and AReaL computed; tests/golden/table.py says which with which.

Measured: an array may be off by 1e-5 of its own largest magnitude; a loss by 1e-5 of itself and the rounding
of the terms that cancel in it, 4 units in the last place of the sum of its gradient's magnitudes, which are
those of its terms. Every key of every file has to have a row.
"""

from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rlbench.models import likelihood
from rlbench.types import Array
from tests.golden.computations import ULP, of_all_rows, raw_if_alone, verl_members
from tests.golden.peers import INPUTS, Peers, files, folders
from tests.golden.table import ARRAYS, LOSSES, rows_of

TOLERANCE = 1e-5


@cache
def peers_of(path: Path) -> Peers:
    return Peers(path)


def keys(path: Path) -> list[str]:
    """Every key but the inputs that others are computed from."""
    return [key for key in peers_of(path).recorded if key not in INPUTS - {"in_score", "in_sequence_advantage"}]


def loss_of(key: str) -> str:
    """The key of the loss whose value or gradient this one is."""
    return key.removesuffix(".grad_value").removesuffix(".grad")


EVERY = [pytest.param(path, key, id=f"{path.stem}-{key}") for path in files() for key in keys(path)]


@pytest.fixture(autouse=True)
def as_recorded(monkeypatch):
    """The recorded ones are not normalised, some log-probabilities are above 0: no softmax goes over it."""
    monkeypatch.setattr(likelihood, "log_policy", lambda model, outputs: outputs)


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_there_is_something_to_compare(folder):
    assert [path for path in files() if path.parent == folder], f"no peers_seed*.npz in {folder}"


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_every_key_has_a_row(path):
    found = peers_of(path).recorded
    assert set(found) >= INPUTS, "inputs are missing"
    for key in keys(path):
        rows = rows_of(ARRAYS, key), rows_of(LOSSES, loss_of(key))
        found_as = [pattern for kind in rows for pattern in {row.key for row in kind}]
        assert found_as, f"{key} has no row: no test says what it is"
        assert len(found_as) == 1, f"{key} is both {' and '.join(found_as)}"
    assert len(found) > len(INPUTS), "nothing but inputs"


def test_the_page_of_conventions_names_every_section_and_no_other():
    page = (Path(__file__).parents[2] / "docs/conventions.md").read_text()
    cells = [row.rsplit("|", 2)[1] for row in page.splitlines() if row.startswith("|") and row.count("|") == 7]
    named = {name for cell in cells for name in cell.split("`")[1::2] if name.isidentifier()}
    sections = ARRAYS.keys() | LOSSES.keys()
    relations = {raw_if_alone.__name__, verl_members.__name__, of_all_rows.__name__}
    assert sections - {"inputs"} <= named <= sections | relations


@cache
def losses(path: Path, key: str) -> list[tuple[str, tuple[Array, Array]]]:
    """By each row of a recorded loss: our loss and its gradient."""
    peers = peers_of(path)
    of = peers.params("new_value" if f"{key}.grad_value" in peers.recorded else "logp")
    return [(row.name, jax.value_and_grad(row.compute(peers, key))(of)) for row in rows_of(LOSSES, key)]


@pytest.mark.parametrize(("path", "key"), EVERY)
def test_it_is_what_the_library_computed(path, key):
    peers, theirs, loss = peers_of(path), peers_of(path).recorded[key], loss_of(key)
    arrays = rows_of(ARRAYS, key)
    assert arrays or rows_of(LOSSES, loss), f"{key} has no row"
    if arrays:
        for row in arrays:
            ours, where, rounding = row.compute(peers, key)
            agree(row.name, ours, theirs, where, rounding)
        return
    for name, (value, gradient) in losses(path, loss):
        if key == loss:
            terms = max(np.abs(peers.recorded.get(f"{key}.{kind}", 0.0)).sum() for kind in ("grad", "grad_value"))
            agree(name, value, theirs, rounding=4 * ULP * terms)
        else:
            agree(name, gradient, theirs)


def agree(name: str, ours: Any, theirs: np.ndarray, where: Any = True, rounding: Any = 0.0) -> None:
    ours, where = np.asarray(ours), np.broadcast_to(where, theirs.shape)
    assert ours.shape == theirs.shape, f"{name}: {ours.shape} for {theirs.shape}"
    allowed = TOLERANCE * np.abs(np.where(where, theirs, 0.0)).max() + rounding
    off = np.where(where, np.abs(ours - theirs) - allowed, 0.0)
    assert np.isfinite(off).all() and (off <= 0).all(), f"{name}: off by {off.max()} more than {np.max(allowed)}"
