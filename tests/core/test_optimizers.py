"""Muon: whose parameters it moves, how far, and what that costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from rlbench.accounting.flops import count, networks_of
from rlbench.learning.optimizers import matrices_within, muon
from rlbench.types import Phase
from tests.fakes import small_model

RATE = 0.01


def muon_of(**words):
    known = {"learning_rate": RATE, "warmup": 0, "final_lr_fraction": 1.0, "momentum": 0.95, "b1": 0.9, "b2": 0.99}
    return muon(10, **known | {"weight_decay": 0.0, "max_grad_norm": 1.0} | words)


@pytest.fixture(scope="module")
def moved():
    """A model's parameters, and what the first update of a random gradient adds to them, by path."""
    params = small_model(layers=2).init(jax.random.key(0))
    optimizer = muon_of()
    leaves, shape = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    gradient = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    updates, _ = jax.jit(optimizer.update)(shape.unflatten(gradient), optimizer.init(params), params)
    return flatten_dict(params, sep="/"), flatten_dict(updates, sep="/")


def is_inner(name):
    return name.startswith("blocks_") and name.endswith("kernel")


def test_the_matrices_within_are_those_of_the_blocks(moved):
    params, _ = moved
    marked = flatten_dict(matrices_within(small_model(layers=2).init(jax.random.key(0))), sep="/")
    assert {name for name in params if marked[name] is not None} == {name for name in params if is_inner(name)}


def test_a_matrix_moves_as_far_in_every_direction_and_the_rest_as_adam_moves_it(moved):
    """Adam's first update, looking ahead as Nesterov does: b1 (1 - b1) / (1 - b1^2) + 1 times the rate."""
    _, updates = moved
    first = RATE * (0.9 * 0.1 / (1 - 0.9**2) + 1)
    for name, update in updates.items():
        if is_inner(name):
            lengths = np.linalg.svd(update, compute_uv=False) / (RATE * 0.2 * max(update.shape) ** 0.5)
            assert lengths.min() > 0.4 and lengths.max() < 1.3, name
        else:
            np.testing.assert_allclose(abs(update), first, rtol=1e-2, err_msg=name)


def test_the_rate_rises_and_falls():
    optimizer = muon_of(warmup=2, final_lr_fraction=0.1, momentum=0.0)
    params = {"a": jnp.eye(4)}
    state, moves = optimizer.init(params), []
    for _ in range(11):
        update, state = optimizer.update(params, state, params)
        moves.append(-float(update["a"][0, 0]))
    moves = np.array(moves) / moves[2]
    np.testing.assert_allclose(moves, [0, 0.5, *np.linspace(1, 0.1, 9)], atol=1e-5)


def test_its_products_are_counted(monkeypatch):
    """Five iterations, each of three products: X X', its square, and that times X."""
    monkeypatch.setattr("rlbench.accounting.flops.ELEMENTWISE", frozenset())
    monkeypatch.setattr("rlbench.accounting.flops.REDUCING", frozenset())
    rows, columns = 8, 24
    optimizer, params = muon_of(), {"a": jnp.ones((rows, columns))}
    arguments = params, optimizer.init(params), params
    jaxpr = jax.make_jaxpr(optimizer.update)(*arguments)
    counted = count(jaxpr, networks_of(arguments, ()), Phase.OPTIMIZER, False)
    assert counted.fixed.total() == 5 * (2 * 2 * rows**2 * columns + 2 * rows**3)
    assert not counted.loops
