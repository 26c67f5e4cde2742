"""Executed operations: held to XLA's own count, and found under the network and the phase they belong to."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from rlbench.accounting import flops
from rlbench.accounting.flops import trace
from rlbench.models.tokenizers import Characters
from rlbench.types import Phase
from tests.fakes import small_model

DIGITS = Characters(alphabet="0123456789+=")
SHAPES = {
    "square": ({"layers": 2, "width": 128, "heads": 4, "kv_heads": 4, "hidden": 384}, (4, 16)),
    "grouped queries": ({"layers": 3, "width": 128, "heads": 8, "kv_heads": 2, "hidden": 384}, (2, 64)),
    "wide": ({"layers": 2, "width": 256, "heads": 4, "kv_heads": 1, "hidden": 512}, (2, 32)),
}


def params_of(model):
    return jax.eval_shape(model.init, jax.random.key(0))


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward and backward"])
@pytest.mark.parametrize("shape", SHAPES)
def test_executed_is_what_xla_counts(shape, backward):
    """Within 2 %, of a program without loops."""
    sizes, tokens = SHAPES[shape]
    model = small_model(DIGITS, chunk_tokens=10**9, **sizes)
    networks, tokens = {"policy": params_of(model)}, jax.ShapeDtypeStruct(tokens, jnp.int32)

    def loss(networks, tokens):
        return jax.nn.logsumexp(model.apply(networks["policy"], tokens), axis=-1).sum()

    function = jax.grad(loss) if backward else loss
    counted = trace(function, networks, tokens, phase=Phase.SCORE)
    by_xla = jax.jit(function).lower(networks, tokens).compile().cost_analysis()["flops"]
    assert counted.fixed.total() == pytest.approx(by_xla, rel=0.02)
    assert not counted.trip and not counted.untold


@pytest.fixture
def products_only(monkeypatch):
    """Leaves elementwise work out, so that a count can be made by hand."""
    monkeypatch.setattr(flops, "ELEMENTWISE", frozenset())
    monkeypatch.setattr(flops, "REDUCING", frozenset())


def matrix(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_a_scan_costs_its_length_and_a_while_loop_what_a_trip_costs():
    def scanned(networks, x):
        return jax.lax.scan(lambda x, _: (x @ networks["a"], None), x, length=7)[0]

    def looped(networks, x):
        return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ networks["a"], x)

    arguments = {"a": matrix(5, 5)}, matrix(3, 5)
    product = 2 * 3 * 5 * 5
    assert trace(scanned, *arguments, phase="p").fixed == {("p", "a"): 7 * product}
    work = trace(looped, *arguments, phase="p")
    assert not work.fixed and work.trip == {("p", "a"): product}
    whole = Counter()
    work.add_to(whole, trips=4)
    assert whole == {("p", "a"): 4 * product}


def test_what_cannot_be_counted_is_told():
    def nested(networks, x):
        def body(x):
            return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ networks["a"], x)

        return jax.lax.while_loop(lambda x: x[0, 0] < 9, body, x)

    def hidden(networks, x):
        return jax.pure_callback(lambda x: x, x, x) @ networks["a"]

    arguments = {"a": matrix(5, 5)}, matrix(3, 5)
    assert trace(nested, *arguments, phase="p").untold == ("a second loop of unknown length",)
    assert trace(hidden, *arguments, phase="p").untold == ("pure_callback",)


def test_of_two_branches_the_costlier_counts():
    def branching(networks, x):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ networks["a"] @ networks["a"], lambda: x @ networks["a"])

    assert trace(branching, {"a": matrix(5, 5)}, matrix(3, 5), phase="p").fixed["p", "a"] == 2 * 2 * 3 * 5 * 5


def two_networks(trainable, frozen, x):
    """A loss of two networks and a frozen one, through a scan, with gradients of each passing by the others."""

    def chunk(total, x):
        hidden = jnp.tanh(x @ trainable["policy"]["in"])
        logits = hidden @ trainable["policy"]["out"]
        value = jnp.tanh(x @ trainable["critic"]["in"]) @ trainable["critic"]["out"]
        target = x @ frozen["reference"]
        return total + ((logits - target) ** 2).sum() + ((value - logits.mean()) ** 2).sum(), None

    return jax.lax.scan(chunk, 0.0, x)[0]


def test_a_gradient_through_a_scan_is_attributed_exactly(products_only):
    rows, chunks, width, hidden, outputs = 3, 4, 8, 16, 6
    networks = {
        "policy": {"in": matrix(width, hidden), "out": matrix(hidden, outputs)},
        "critic": {"in": matrix(width, 2 * hidden), "out": matrix(2 * hidden, 1)},
    }

    def marked(trainable, frozen, x):
        def loss(trainable):
            with jax.named_scope(Phase.FORWARD):
                return two_networks(trainable, frozen, x)

        return jax.grad(loss)(trainable)

    frozen, x = {"reference": matrix(width, outputs)}, matrix(chunks, rows, width)
    counted = trace(marked, networks, frozen, x, networks=(0, 1), phase=Phase.OPTIMIZER).fixed
    policy = 2 * chunks * rows * (width * hidden + hidden * outputs)
    critic = 2 * chunks * rows * (width * 2 * hidden + 2 * hidden)
    # Backwards, each layer's weights get a gradient, and so does what came in; but nobody wants that of x.
    assert counted == {
        (Phase.FORWARD, "policy"): policy,
        (Phase.FORWARD, "critic"): critic,
        (Phase.FORWARD, "reference"): 2 * chunks * rows * width * outputs,
        (Phase.BACKWARD, "policy"): policy + 2 * chunks * rows * hidden * outputs,
        (Phase.BACKWARD, "critic"): critic + 2 * chunks * rows * 2 * hidden,
    }


def test_what_is_recomputed_for_a_gradient_counts_backwards(products_only):
    def marked(networks, x):
        @jax.checkpoint
        def block(weights, x):
            return jnp.tanh(jnp.tanh(x @ weights) @ weights)

        def loss(networks):
            with jax.named_scope(Phase.FORWARD):
                return block(networks["policy"], x).sum()

        return jax.grad(loss)(networks)

    counted = trace(marked, {"policy": matrix(5, 5)}, matrix(3, 5), phase="p").fixed
    product = 2 * 3 * 5 * 5
    # Backwards: both products again (the last one's result is needed for its tanh), two gradients of weights, one of x.
    assert counted == {(Phase.FORWARD, "policy"): 2 * product, (Phase.BACKWARD, "policy"): 5 * product}
