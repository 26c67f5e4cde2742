"""A prompt that a group shares goes through the network once; likelihoods, gradients and steps stay what they were."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlbench.accounting.account import Account
from rlbench.acting.collector import whole
from rlbench.contract.algorithm import shapes
from rlbench.devices import Devices
from rlbench.learning.learner import Learner, UpdateConfig
from rlbench.models.likelihood import token_logp, token_value
from rlbench.models.prefix import Widths, prefixes_of, sharing
from rlbench.types import Rollouts
from tests.core.test_learner import ALGORITHMS, algorithm_of
from tests.fakes import as_numpy, small_model

GROUPS, SIZE, WIDTHS = 8, 4, Widths(5, 4)
ROW = WIDTHS.prompt + WIDTHS.continuation


def batch(vocabulary: int, seed: int = 0) -> tuple[Rollouts, np.ndarray]:
    """Groups of equal prompts of 1 to 5 tokens, completions of 1 to 4; one row is masked, and one group whole."""
    random = np.random.default_rng(seed)
    prompts = np.append(random.integers(1, WIDTHS.prompt + 1, GROUPS - 2), [1, WIDTHS.prompt]).astype(np.int32)
    tokens, mask = np.zeros((GROUPS * SIZE, ROW), np.int32), np.zeros((GROUPS * SIZE, ROW), bool)
    for group, length in enumerate(prompts.tolist()):
        prompt = random.integers(2, vocabulary, length)
        for row in range(group * SIZE, (group + 1) * SIZE):
            end = length + random.integers(1, WIDTHS.continuation + 1)
            tokens[row, :length], tokens[row, length:end] = prompt, random.integers(2, vocabulary, end - length)
            mask[row, length:end] = True
    mask[1], mask[2 * SIZE : 3 * SIZE] = False, False
    logp = np.where(mask, random.normal(-2.0, 0.3, mask.shape), 0.0).astype(np.float32)
    reward = np.where(mask, random.integers(0, 2, mask.shape), 0).astype(np.float32)
    group = np.repeat(np.arange(GROUPS), SIZE).astype(np.int32)
    return Rollouts(tokens, mask, logp, reward, group, np.zeros_like(tokens)), prompts


def relative(one, other) -> float:
    """Norm of the difference of two trees, in norms of the first."""
    difference = jax.tree.map(jnp.subtract, one, other)
    return float(optax.tree.norm(difference) / optax.tree.norm(one))


@pytest.mark.parametrize("chunk_tokens", [10**6, 40])
@pytest.mark.parametrize(("read", "outputs"), [(token_logp, None), (token_value, 1)])
def test_likelihoods_values_and_gradients_are_those_of_whole_rows(read, outputs, chunk_tokens):
    model = small_model(chunk_tokens=chunk_tokens, kv_heads=1)
    model = model.resized(outputs) if outputs else model
    params = model.init(jax.random.key(0))
    rollouts, prompts = jax.tree.map(jnp.asarray, batch(6))
    weight = jax.random.normal(jax.random.key(1), rollouts.mask.shape)

    def total(params, length):
        with sharing(rollouts, length, WIDTHS):
            values = read(model, params, rollouts)
        return (weight * values).sum(), values

    compute = jax.jit(jax.value_and_grad(total, has_aux=True))
    ((_, plain), by_row), ((_, shared), by_group) = compute(params, None), compute(params, prompts)
    np.testing.assert_allclose(plain, shared, atol=2e-6)
    assert relative(by_row, by_group) < 1e-6
    assert (np.asarray(shared)[~np.asarray(rollouts.mask)] == 0).all()


def test_rows_that_an_algorithm_made_itself_are_read_as_they_are():
    """Turned around, cut, or with another mask, nothing is known of them."""
    model = small_model()
    params = model.init(jax.random.key(0))
    rollouts, prompts = jax.tree.map(jnp.asarray, batch(6))
    prompt_too = rollouts._replace(mask=rollouts.mask.at[:, 0].set(True))
    for mine in (jax.tree.map(lambda x: x[::-1], rollouts), jax.tree.map(lambda x: x[3:9], rollouts), prompt_too):
        with sharing(rollouts, prompts, WIDTHS):
            assert prefixes_of(rollouts) is not None
            assert prefixes_of(mine) is None
            within = token_logp(model, params, mine)
        np.testing.assert_array_equal(within, token_logp(model, params, mine))
    assert prefixes_of(rollouts) is None


def stepped(name, devices, prompts, update_config, model=None, donate=True):
    model = model or small_model(chunk_tokens=60)
    account = Account()
    learner = Learner(
        *(algorithm_of(name, model), optax.sgd(0.1), update_config, devices),
        **{"seed": 0, "donate": donate, "account": account, "widths": WIDTHS if model.branch else None},
    )
    rollouts, lengths = batch(6)
    state = learner.init(jax.random.key(0), model.init(jax.random.key(1)), None)
    state, metrics, teaches = learner.step(state, *devices.shard((rollouts, lengths if prompts else None)))
    return as_numpy(state.trainable), metrics, teaches, account.take().flops


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_learner_step_is_what_it_was(name, devices):
    devices = Devices(jax.devices()[:devices])
    plain, shared = (stepped(name, devices, prompts, UpdateConfig(1, 1, 60)) for prompts in (False, True))
    assert relative(plain[0], shared[0]) < 1e-6
    for metrics in (plain[1], shared[1]):
        metrics.pop("left_out", None)  # microbatches have other rows
    assert plain[1] == pytest.approx(shared[1], rel=1e-4, abs=1e-6)
    np.testing.assert_array_equal(plain[2], shared[2])
    forward = [flops["train_forward", "policy"] for *_, flops in (plain, shared)]
    assert forward[1] < 0.7 * forward[0]  # 5 + 4 * 3 positions of a group instead of 4 * 8


def test_minibatches_hold_whole_groups():
    """Half the groups an update: were they torn apart, prompts would belong to other rows."""
    one = Devices(jax.devices()[:1])
    config = UpdateConfig(2, 2, 10**6)
    model = small_model()
    with_branch, without = (
        stepped("grpo", one, True, config, model._replace(branch=branch)) for branch in (model.branch, None)
    )
    assert with_branch[1].keys() == without[1].keys()
    rollouts, lengths = batch(6)
    learner = Learner(algorithm_of("grpo", model), optax.sgd(0.1), config, one, seed=0, donate=False, widths=WIDTHS)
    seen = []
    learner.update = lambda trainable, opt_state, frozen, rollouts, prompts, scores, teaches, rows: (
        seen.append(np.asarray(rows)) or (trainable, opt_state, {}, ())
    )
    learner.step(learner.init(jax.random.key(0), model.init(jax.random.key(1)), None), *one.shard((rollouts, lengths)))
    assert len(seen) == 4
    for rows in seen:
        groups = rows.reshape(-1, SIZE)
        assert (groups // SIZE == groups[:, :1] // SIZE).all()
        assert (groups % SIZE == np.arange(SIZE)).all()
    for epoch in (seen[:2], seen[2:]):
        assert sorted(np.concatenate(epoch)) == list(range(GROUPS * SIZE))


@pytest.mark.parametrize(
    ("rows", "fine"),
    [
        ([0, 1, 2, 3, 4, 5], True),
        ([4, 5, 0, 1, -1, -1], True),
        ([0, 1, 2, -1], False),  # of a group one row alone was kept
        ([1, 2, 3, 4], False),
        ([0, 1, 2], False),
    ],
)
def test_groups_that_were_torn_apart_are_noticed(rows, fine):
    assert whole(np.array(rows), 2) is fine


@pytest.mark.parametrize("devices", [1, 4])
def test_rows_that_teach_nothing_are_left_out_of_the_backward_pass_and_change_nothing(devices):
    """Five of eight groups have equal rewards: weights and metrics are those of a learner that trains on all."""
    devices, model = Devices(jax.devices()[:devices]), small_model()
    rollouts, lengths = batch(6, seed=1)
    equal = np.isin(rollouts.group, [0, 2, 4, 5, 7])[:, None]
    every_other = np.arange(len(equal))[:, None] % 2 * rollouts.mask
    rollouts = rollouts._replace(reward=np.where(equal, 0, every_other).astype(np.float32))
    algorithm = algorithm_of("async_grpo", model)
    assert algorithm.idle_without_advantage
    results = []
    for idle in (True, False):
        account = Account()
        learner = Learner(
            *(algorithm._replace(idle_without_advantage=idle), optax.sgd(0.1), UpdateConfig(2, 1, 60), devices),
            **{"seed": 0, "donate": True, "account": account, "widths": WIDTHS},
        )
        state = learner.init(jax.random.key(0), model.init(jax.random.key(1)), None)
        state, metrics, teaches = learner.step(state, *devices.shard((rollouts, lengths)))
        results.append((as_numpy(state.trainable), metrics, teaches, account.take().flops))
    (some, metrics, teaches, left), (everything, others, also, all_of_it) = results
    assert relative(everything, some) < 1e-6
    idle = metrics.pop("left_out")
    assert idle == (0.5 if len(devices.devices) == 1 else 0.0), "two groups are a microbatch, or one of each device"
    assert metrics == pytest.approx(others, rel=1e-5, abs=1e-7)
    np.testing.assert_array_equal(teaches, also)
    assert left["train_forward", "policy"] == pytest.approx(all_of_it["train_forward", "policy"], rel=0.03)
    backward = left["train_backward", "policy"] / all_of_it["train_backward", "policy"]
    assert backward == pytest.approx(1 - idle, abs=0.05)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_programs_that_were_compiled_ahead_are_those_of_a_step(name, devices):
    devices, model = Devices(jax.devices()[:devices]), small_model()
    config = UpdateConfig(1, 2, 60)
    learner = Learner(algorithm_of(name, model), optax.adam(0.1), config, devices, seed=0, donate=True, widths=WIDTHS)
    state = learner.init(jax.random.key(0), model.init(jax.random.key(1)), None)
    learner.prepare_aside(state, shapes(GROUPS * SIZE, ROW), jax.ShapeDtypeStruct((GROUPS,), np.int32))
    assert (learner.score.compilations, learner.update.compilations) == (1, 1)
    for _ in range(2):
        state, _, _ = learner.step(state, *devices.shard(batch(6)))
    assert (learner.score.compilations, learner.update.compilations) == (1, 1)
