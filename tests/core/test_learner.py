"""The learner: microbatches, minibatches and devices change how a step is computed, not what it is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlbench.devices import Devices, chunk_count
from rlbench.learning.learner import Learner, UpdateConfig
from rlbench.plugins import build
from rlbench.testing import algorithm_case
from tests.fakes import as_numpy, small_model

WHOLE = UpdateConfig(1, 1, 10**6)  # one update, in one piece
GRPO = {"group_size": 4, "clip": 0.2, "advantage_eps": 1e-6, "loss_aggregation": "sequences"}
ALGORITHMS = {
    "ppo": {"group_size": 1, "critic": {"width": 8}, "gamma": 1.0, "gae_lambda": 0.95, "clip": 0.2, "value_clip": 0.2}
    | {"value_coef": 0.5},
    "grpo": GRPO | {"kl_coef": 0.04},
    "async_grpo": GRPO | {"kl_coef": 0.0, "is_cap": 2.0},
}


def algorithm_of(name, model):
    return build({"_target_": f"rlbench.algos.{name}.{name}"} | ALGORITHMS[name], "algo", model)


def one_step(name, devices, update_config=WHOLE, donate=True):
    """A learner step by plain gradient descent, from the same start on the same batch: parameters and metrics."""
    model = small_model(chunk_tokens=update_config.microbatch_tokens)
    algorithm = algorithm_of(name, model)
    learner = Learner(algorithm, optax.sgd(0.1), update_config, devices, seed=0, donate=donate)
    rollouts = algorithm_case(algorithm, model).rollouts
    state = learner.init(jax.random.key(0), model.init(jax.random.key(1)), None)
    state, metrics, _ = learner.step(state, devices.shard(as_numpy(rollouts)))
    return as_numpy(state.trainable), metrics


@pytest.mark.parametrize("name", ALGORITHMS)
def test_four_devices_do_what_one_does(name):
    """Loss, gradient (its norm, and the plain descent along it) and update."""
    update_config = UpdateConfig(1, 1, 48)
    assert len(jax.devices()) == 4
    one, one_metrics = one_step(name, Devices(jax.devices()[:1]), update_config)
    four, four_metrics = one_step(name, Devices(), update_config)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), one, four)
    assert one_metrics == pytest.approx(four_metrics, rel=1e-5, abs=1e-5)


def test_four_devices_go_on_without_compiling_again():
    model = small_model()
    learner = Learner(
        algorithm_of("ppo", model), optax.adam(1e-3), UpdateConfig(2, 3, 48), Devices(), seed=0, donate=True
    )
    state = learner.init(jax.random.key(0), model.init(jax.random.key(1)), None)
    rollouts = learner.devices.shard(as_numpy(algorithm_case(learner.algorithm, model).rollouts))
    for _ in range(3):
        state, _, _ = learner.step(state, rollouts)
    assert (learner.score.compilations, learner.update.compilations) == (1, 1)


def test_a_batch_lies_in_rows_over_all_devices():
    spread = Devices().shard(np.zeros((8, 3)))
    assert [shard.data.shape for shard in spread.addressable_shards] == [(2, 3)] * 4


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("microbatch_tokens", [12, 48])
def test_microbatches_change_nothing(devices, name, microbatch_tokens):
    whole, metrics = one_step(name, devices)
    parts, part_metrics = one_step(name, devices, UpdateConfig(1, 1, microbatch_tokens))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4), whole, parts)
    for one in (metrics, part_metrics):
        one.pop("left_out", None)  # the share of microbatches none of whose rows teaches
    assert metrics == pytest.approx(part_metrics, rel=1e-4, abs=1e-6)


def test_donating_changes_nothing(devices):
    kept, _ = one_step("grpo", devices, donate=False)
    given, _ = one_step("grpo", devices, donate=True)
    jax.tree.map(np.testing.assert_array_equal, kept, given)


def test_a_step_takes_epochs_times_minibatches_updates_and_is_one_version(devices):
    model = small_model()
    learner = Learner(
        algorithm_of("grpo", model), optax.adam(1e-3), UpdateConfig(2, 3, 10**6), devices, seed=0, donate=True
    )
    state = learner.init(jax.random.key(0), model.init(jax.random.key(1)), None)
    rollouts = devices.shard(as_numpy(algorithm_case(learner.algorithm, model).rollouts))
    for version in (1, 2):
        state, _, _ = learner.step(state, rollouts)
        assert state.version == version
        assert state.opt_state["policy"][0].count == 6 * version
    assert (learner.score.compilations, learner.update.compilations) == (1, 1)


def test_every_epoch_spends_every_row_once(devices):
    """Rows that count themselves: the gradient of a plain sum over rows tells which were in a minibatch."""
    from rlbench.types import Algorithm, Loss

    def loss(trainable, frozen, rollouts, scores):
        seen = trainable["policy"][rollouts.tokens[:, 0]]
        return Loss(seen.sum(), jnp.float32(1), {})

    algorithm = Algorithm(lambda key, policy, rollouts: ({"policy": policy}, {}), lambda *_: {}, loss)
    learner = Learner(algorithm, optax.sgd(1.0), UpdateConfig(3, 4, 10**6), devices, seed=0, donate=True)
    rollouts = as_numpy(algorithm_case(algorithm_of("grpo", small_model()), small_model()).rollouts)
    numbered = rollouts._replace(tokens=np.tile(np.arange(12, dtype=np.int32)[:, None], 12))
    state, _, _ = learner.step(learner.init(jax.random.key(0), jnp.zeros(12), None), devices.shard(numbered))
    np.testing.assert_array_equal(state.trainable["policy"], -3)


def test_components_are_clipped_apart(devices):
    """A critic with a huge gradient does not hold the policy back."""
    model = small_model()

    def policy_after(value_coef: float):
        settings = ALGORITHMS["ppo"] | {"value_coef": value_coef}
        algorithm = build({"_target_": "rlbench.algos.ppo.ppo"} | settings, "algo", model)
        optimizer = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
        learner = Learner(algorithm, optimizer, UpdateConfig(1, 1, 10**6), devices, seed=0, donate=True)
        state = learner.init(jax.random.key(0), model.init(jax.random.key(1)), None)
        state, _, _ = learner.step(state, devices.shard(as_numpy(algorithm_case(algorithm, model).rollouts)))
        return as_numpy(state.trainable["policy"])

    jax.tree.map(np.testing.assert_array_equal, policy_after(0.5), policy_after(1e6))


def test_bfloat16_parameters_keep_their_type(devices):
    model = small_model(param_dtype="bfloat16")
    learner = Learner(
        algorithm_of("grpo", model), optax.adam(1e-3), UpdateConfig(1, 1, 24), devices, seed=0, donate=True
    )
    state = learner.init(jax.random.key(0), model.init(jax.random.key(1)), None)
    rollouts = devices.shard(as_numpy(algorithm_case(learner.algorithm, model).rollouts))
    for _ in range(2):
        state, _, _ = learner.step(state, rollouts)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.trainable)} == {jnp.dtype("bfloat16")}
    assert learner.update.compilations == 1


def test_no_reference_is_held_when_its_coefficient_is_zero():
    model = small_model()
    policy = model.init(jax.random.key(0))
    settings = {"_target_": "rlbench.algos.grpo.grpo"} | ALGORITHMS["grpo"]
    assert build(settings | {"kl_coef": 0.0}, "algo", model).init(jax.random.key(0), policy, None)[1] == {}
    assert set(build(settings, "algo", model).init(jax.random.key(0), policy, None)[1]) == {"reference"}


@pytest.mark.parametrize(
    ("rows", "tokens", "most", "count"), [(12, 120, 1000, 1), (12, 120, 40, 3), (12, 120, 25, 6), (12, 120, 1, 12)]
)
def test_chunks_are_equal_and_as_few_as_fit(rows, tokens, most, count):
    assert chunk_count(rows, tokens, most) == count
