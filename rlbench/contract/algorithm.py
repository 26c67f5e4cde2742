"""Shapes that the functions of an algorithm, and of its model, have to return. Nothing is compiled."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..types import Algorithm, Array, Loss, Model, Params, Rollouts, policy_of
from .sources import Source, described, expect, expect_of, is_array

SETTINGS = ("group_size", "idle_without_advantage")  # all else of an algorithm are functions
FUNCTIONS = {name: kind for name, kind in Algorithm.__annotations__.items() if name not in SETTINGS}  # their protocols


def shapes(rows: int, length: int) -> Rollouts:
    """Rollouts without numbers, for what needs to know only how large they are."""
    long, row = (rows, length), (rows,)
    kinds = Rollouts(np.int32, bool, np.float32, np.float32, np.int32, np.int32)
    return Rollouts(
        *(jax.ShapeDtypeStruct(row if name == "group" else long, kind) for name, kind in kinds._asdict().items())
    )


def source_of(algorithm: Algorithm, maker: Any) -> Source:
    """Places of an algorithm's functions, and of what made it."""
    return Source(maker, {name: function for name, function in algorithm._asdict().items() if callable(function)})


def check_algorithm(algorithm: Algorithm, model: Model) -> None:
    """Holds the functions of an algorithm to their arguments, and to the shapes of what they return.

    No two sizes of the batch are the same, so that f32[T] does not pass for f32[B].

    Args:
      model: the one that the algorithm was made for.

    Raises:
      PluginError: about the function that breaks it. Whatever a function raises is raised.
    """
    group = algorithm.group_size
    fine = isinstance(group, int) and not isinstance(group, bool) and group >= 1
    expect_of(group, fine, "maker", "a group_size of at least 1")
    for name, kind in FUNCTIONS.items():
        check_signature(name, getattr(algorithm, name), kind)

    rows = 3 * group
    length = 2 * rows + 3
    rollouts, sizes = shapes(rows, length), {rows: "B", length: "T"}
    key = jax.eval_shape(lambda: jax.random.key(0))
    policy = jax.eval_shape(model.init, key)

    trainable, frozen = returned(lambda key, policy: algorithm.init(key, policy, rollouts), check_networks, key, policy)
    if algorithm.acting is policy_of:
        wanted = 'a trainable network called "policy", or an acting of its own'
        expect_of(trainable, "policy" in trainable, "init", wanted)
    acting = jax.eval_shape(algorithm.acting, trainable, frozen)
    expect_alike("acting", "parameters like the policy's", acting, policy)

    def check_scores(scores: Any) -> None:
        fine = isinstance(scores, dict) and all(isinstance(name, str) for name in scores)
        expect_of(scores, fine, "score", "a dict of arrays by name", sizes)
        for name, value in scores.items():
            fine = is_array(value) and value.shape[:1] == (rows,)
            if name == "advantage":
                fine = fine and value.shape == (rows, length) and jnp.issubdtype(value.dtype, jnp.floating)
            wanted = "f32[B, T]" if name == "advantage" else "[B] or [B, T], a row a rollout"
            expect_of(value, fine, "score", f'"{name}" {wanted}', sizes)

    version = jax.ShapeDtypeStruct((), jnp.int32)
    scores = returned(algorithm.score, check_scores, trainable, frozen, rollouts, version)

    fewer = max(rows - 1, 2)  # any rows of the batch; groups may be torn apart
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((fewer, *x.shape[1:]), x.dtype), (rollouts, scores))

    def total(trainable: Params, frozen: Params, rollouts: Rollouts, scores: Any) -> Array:
        loss = algorithm.loss(trainable, frozen, rollouts, scores)
        check_loss(loss, {fewer: "B", length: "T"})
        return loss.total

    jax.eval_shape(jax.grad(total), trainable, frozen, *batch)
    after = jax.eval_shape(algorithm.after, trainable, frozen, rollouts, scores)
    expect_alike("after", "frozen as init made it", after, frozen)
    kept = jax.eval_shape(algorithm.keep, rollouts)
    fine = is_array(kept) and (kept.shape, kept.dtype) == ((rows,), bool)
    expect_of(kept, fine, "keep", "bool[B]", sizes)


def check_model(model: Model) -> None:
    """Holds a model to outputs f32[B, T, V] of any tokens, again on shapes alone.

    Raises:
      PluginError: they have another shape. Whatever a function raises is raised.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    outputs = jax.eval_shape(model.apply, jax.eval_shape(model.init, key), shapes(3, 5).tokens)
    fine = is_array(outputs) and outputs.shape == (3, 5, len(model.emits))
    expect_of(outputs, fine, "apply", f"[B, T, {len(model.emits)}]", {3: "B", 5: "T"})


def check_signature(about: str, function: Any, kind: Any) -> None:
    """Holds a field of an algorithm to a function that can be called with the arguments of its protocol."""
    _, *arguments = inspect.signature(kind.__call__).parameters  # less self
    wanted = f"({', '.join(arguments)})"
    expect_of(function, callable(function), "maker", f"{about} to be a function of {wanted}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Python knows none of some functions
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        expect(False, about, f"a function of {wanted}", str(signature))


def returned(function: Callable[..., Any], check: Callable[[Any], None], *arguments: Any) -> Any:
    """The shapes of what a function returns, once its check has seen it as it is: JAX makes an array of a number."""

    def seen(*arguments: Any) -> Any:
        value = function(*arguments)
        check(value)
        return value

    return jax.eval_shape(seen, *arguments)


def check_networks(made: Any) -> None:
    """Holds what init returned to two dicts of networks by name, of arrays and numbers."""
    two = isinstance(made, tuple | list) and not hasattr(made, "_fields") and len(made) == 2
    expect_of(made, two, "init", "two dicts of networks by name, trainable and frozen")
    for name, tree in zip(("trainable", "frozen"), made, strict=True):
        fine = isinstance(tree, dict) and all(isinstance(network, str) for network in tree)
        expect_of(tree, fine, "init", f"{name} to be a dict of networks by name")
        for path, leaf in leaves_of(tree):
            expect_of(leaf, is_array(leaf) or isinstance(leaf, int | float), "init", f"an array at {name}/{path}")
            fine = name == "frozen" or jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
            expect_of(leaf, fine, "init", f"floating point at {name}/{path}, which is trained")


def check_loss(loss: Any, sizes: Mapping[int, str]) -> None:
    """Holds what loss returned to a Loss of numbers, whose metrics are pairs of them."""
    expect_of(loss, isinstance(loss, Loss), "loss", "a Loss(total, weight, metrics)", sizes)
    fine = is_number(loss.total) and jnp.issubdtype(jnp.result_type(loss.total), jnp.floating)
    expect_of(loss.total, fine, "loss", "total f32[]", sizes)
    expect_of(loss.weight, is_number(loss.weight), "loss", "weight f32[]", sizes)
    fine = isinstance(loss.metrics, dict) and all(isinstance(name, str) for name in loss.metrics)
    expect_of(loss.metrics, fine, "loss", "metrics to be a dict of pairs by name", sizes)
    for name, pair in loss.metrics.items():
        what = f'metric "{name}" to be a pair of numbers, sum and weight'
        expect_of(pair, isinstance(pair, tuple) and len(pair) == 2, "loss", what, sizes)
        came = ", ".join(described(part, sizes) for part in pair)
        expect(all(map(is_number, pair)), "loss", what, f"({came})")


def is_number(value: Any) -> bool:
    return value.shape == () if is_array(value) else isinstance(value, int | float)


def leaves_of(tree: Any) -> list[tuple[str, Any]]:
    """Every leaf of a tree with its name, such as policy/head."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def expect_alike(about: str, what: str, came: Any, wanted: Any) -> None:
    """Holds two trees to the same structure, shapes and dtypes."""
    before, after = ({name: described(leaf) for name, leaf in leaves_of(tree)} for tree in (wanted, came))
    for name in [*before, *after]:
        expect(before.get(name) == after.get(name), about, f"{what}: {name} {before.get(name)}", f"{after.get(name)}")
    kinds = [str(jax.tree.structure(tree)) for tree in (wanted, came)]
    expect(kinds[0] == kinds[1], about, f"{what}: {kinds[0]}", kinds[1])
