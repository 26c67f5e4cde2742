"""Executed operations: held to XLA's own count, and found under the network and the phase they belong to."""

import math
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlbench.accounting import flops
from rlbench.accounting.flops import count, networks_of
from rlbench.acting.slots import prefill
from rlbench.devices import Devices
from rlbench.learning.learner import Learner, UpdateConfig
from rlbench.models.tokenizers import Characters
from rlbench.types import Phase
from tests.fakes import algorithm_of, as_numpy, rollouts_of, small_model

DIGITS = Characters(alphabet="0123456789+=")
SHAPES = {
    "square": ({"layers": 2, "width": 128, "heads": 4, "kv_heads": 4, "hidden": 384}, (4, 16)),
    "grouped queries": ({"layers": 3, "width": 128, "heads": 8, "kv_heads": 2, "hidden": 384}, (2, 64)),
    "wide": ({"layers": 2, "width": 256, "heads": 4, "kv_heads": 1, "hidden": 512}, (2, 32)),
}


def trace(function, *arguments, networks=(0,), phase="p", loops=0):
    return count(jax.make_jaxpr(function)(*arguments), networks_of(arguments, networks), phase, loops)


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
    assert not counted.loops and not counted.uncounted


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
    work = trace(looped, *arguments, phase="p", loops=1)
    assert not work.fixed and work.loops == ({("p", "a"): product},)
    whole = Counter()
    work.add_to(whole, iterations=[4])
    assert whole == {("p", "a"): 4 * product}


def test_loops_whose_trips_nobody_tells_count_once_and_are_told(products_only):
    def loop(body):
        return lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, body, x)

    def nested(networks, x):
        return loop(loop(lambda x: x @ networks["a"]))(x)

    def in_a_row(networks, x):
        return loop(lambda x: x @ networks["a"] @ networks["a"])(loop(lambda x: x @ networks["a"])(x))

    arguments, product = ({"a": matrix(5, 5)}, matrix(3, 5)), 2 * 3 * 5 * 5
    assert trace(loop(lambda x: x @ x), matrix(5, 5), networks=()).uncounted == ("a loop of unknown length",)
    for function, once, iteration in ((nested, 0, product), (in_a_row, 2 * product, product)):
        work = trace(function, *arguments, loops=1)
        assert (work.fixed.total(), work.loops[0].total()) == (once, iteration), function
        assert len(work.uncounted) == 1
    assert trace(in_a_row, *arguments).fixed.total() == 3 * product


@pytest.mark.parametrize(
    ("hidden", "name"),
    [
        (lambda x: jax.pure_callback(lambda x: x, x, x), "pure_callback"),
        (lambda x: jnp.linalg.cholesky(x), "cholesky"),
        (lambda x: jnp.linalg.solve(x, x), "lu"),
    ],
)
def test_what_cannot_be_counted_is_told(hidden, name):
    uncounted = trace(lambda networks, x: hidden(x) @ networks["a"], {"a": matrix(5, 5)}, matrix(5, 5)).uncounted
    assert any(name in told for told in uncounted), uncounted


def test_what_makes_no_numbers_is_free(products_only):
    def moving(networks, x):
        jax.debug.print("{}", x)
        x = jnp.sort(x)[::-1].at[0].set(x[1])
        return jnp.where(x > 0, x, jnp.take(x, jnp.array([1, 0, 2]), axis=0))

    work = trace(moving, {}, matrix(3, 5))
    assert not work.fixed and not work.uncounted


def test_constants_are_worked_out_beforehand():
    assert not trace(lambda networks, x: x.at[0].set(jnp.exp(jnp.ones(5)) * 2), {}, matrix(3, 5)).fixed


def test_sums_into_places_cost_what_is_put_there():
    summed = trace(lambda networks, x: jnp.zeros(7).at[jnp.arange(3)].add(x), {}, matrix(3)).fixed
    assert summed == {("p", "shared"): 3}


def test_a_ragged_product_and_a_convolution(products_only):
    def ragged(networks, x):
        return jax.lax.ragged_dot(x, networks["a"], jnp.array([2, 4], jnp.int32))

    def convolution(networks, x):
        return jax.lax.conv(x, networks["a"], (1, 1), "VALID")

    assert trace(ragged, {"a": matrix(2, 5, 7)}, matrix(6, 5)).fixed == {("p", "a"): 2 * 6 * 5 * 7}
    # 8 by 8 places of 4 features, each from 3 by 3 places of 2.
    assert trace(convolution, {"a": matrix(4, 2, 3, 3)}, matrix(1, 2, 10, 10)).fixed == {
        ("p", "a"): 2 * 8 * 8 * 4 * 3 * 3 * 2
    }


def test_a_body_that_every_device_runs_counts_on_all(products_only):
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    def spread(networks, x):
        return jax.shard_map(lambda x, a: x @ a, mesh=mesh, in_specs=(spec("data"), spec()), out_specs=spec("data"))(
            x, networks["a"]
        )

    assert trace(spread, {"a": matrix(5, 5)}, matrix(8, 5)).fixed.total() == 2 * 8 * 5 * 5


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


def test_prompts_that_are_read_in_chunks_cost_what_they_cost_at_once(products_only):
    """Columns read apart cost the head once each."""

    def read(chunk_tokens):
        model = small_model(chunk_tokens=chunk_tokens)

        def function(networks, tokens, length):
            return prefill(model, networks["policy"], model.cache(*tokens.shape), tokens, length)

        shapes = jax.ShapeDtypeStruct((4, 6), jnp.int32), jax.ShapeDtypeStruct((4,), jnp.int32)
        return trace(function, {"policy": params_of(model)}, *shapes).fixed["p", "policy"]

    head = 2 * 4 * 16 * 6  # 4 rows, width 16, 6 outputs
    assert read(12) == read(6) == read(24)
    assert read(4) == read(24) + head  # 4 and then 2 of 6 columns
    assert read(2) == read(24) + 2 * head


def products_of(hlo: str) -> int:
    """Operations of the matrix products of a compiled program on one device, loops as often as they run."""
    computations: dict[str, list[str]] = {}
    entry = ""
    for line in hlo.splitlines():
        if found := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            lines = computations[found[2]] = []
            entry = found[2] if found[1] else entry
        elif computations:
            lines.append(line)

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",") if number]

    def cost(name: str) -> int:
        shapes, total = {}, 0
        for line in computations[name]:
            if made := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = \w+\[([\d,]*)\]", line):
                shapes[made[1]] = numbers(made[2])
            if dot := re.search(r"= \w+\[([\d,]*)\]\S* dot\((?:\w+\[[\d,]*\]\S* )?%?([\w.\-]+),", line):
                contracted = numbers(re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line)[1])
                total += 2 * math.prod(numbers(dot[1])) * math.prod(shapes[dot[2]][axis] for axis in contracted)
            if " while(" in line:
                iterations = int(re.search(r'known_trip_count":\{"n":"(\d+)"', line)[1])
                total += iterations * cost(re.search(r"body=%?([\w.\-]+)", line)[1])
            total += sum(cost(inner) for inner in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line))
        return total

    return cost(entry)


def programs_of(microbatch_tokens: int) -> list:
    """Score and update of a learner step of GRPO on four devices, as compiled: 16 rows of 10 tokens."""
    model = small_model(width=64, hidden=128, chunk_tokens=microbatch_tokens)
    update_config = UpdateConfig(1, 1, microbatch_tokens)
    learner = Learner(algorithm_of("grpo", model), optax.adam(1e-3), update_config, Devices(), seed=0, donate=False)
    state = learner.init(jax.random.key(0), model.init(jax.random.key(1)), None)
    rollouts = rollouts_of(np.random.default_rng(0).random((16, 10)), group=np.arange(16) // 4)
    learner.step(state, learner.devices.shard(as_numpy(rollouts)))
    return [compiled for program in (learner.score, learner.update) for compiled in program._known.values()]


def test_devices_share_the_rows_however_long_they_are(products_only):
    """A gradient's or a pass's chunk has a row for each of four devices, also where one is more than it may hold."""
    whole, parts = programs_of(10**6), programs_of(9)
    for once, often in zip(whole, parts, strict=True):
        counted = once.work.fixed.total()
        assert 4 * products_of(once.executable.as_text()) == counted
        assert 4 * products_of(often.executable.as_text()) == often.work.fixed.total() == counted


def test_what_every_device_does_is_counted_on_each():
    """An optimizer's update of the same parameters, above all; within 3 % of XLA's count of one device, times four."""
    for compiled in programs_of(10**6):
        by_xla = 4 * compiled.executable.cost_analysis()["flops"]
        assert compiled.work.fixed.total() == pytest.approx(by_xla, rel=0.03)
