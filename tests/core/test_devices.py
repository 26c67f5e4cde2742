"""Programs: compiled once a bucket, metered, and lowered for machines that are not here."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlbench.accounting.memory import MemoryMeter, live_bytes
from rlbench.acting.slots import Admission, Observation, Sampling, admit, answer, decode, idle, read_prompts, reread
from rlbench.contract.algorithm import shapes
from rlbench.devices import CompiledFunction, Devices
from rlbench.learning.learner import Learner, UpdateConfig
from rlbench.learning.optimizers import adamw
from rlbench.models.prefix import Widths
from rlbench.types import OutOfMemory, Phase
from tests.core.test_learner import ALGORITHMS, algorithm_of
from tests.fakes import small_model


def test_one_executable_a_shape(devices):
    double = CompiledFunction(devices, lambda x: 2 * x, phase=Phase.SCORE)
    for value in (np.ones(3), np.zeros(3), np.ones(4)):
        np.testing.assert_array_equal(double(devices.replicate(value)), 2 * value)
    assert double.compilations == 2


def test_a_donated_buffer_is_gone(devices):
    increase = CompiledFunction(devices, lambda x: x + 1, donate=(0,), phase=Phase.SCORE)
    given = devices.replicate(np.zeros(3))
    increase(given)
    assert given.is_deleted()


def test_the_meter_sees_live_arrays_and_what_a_program_adds():
    meter = MemoryMeter(jax.devices()[0])
    devices = Devices(jax.devices()[:1], meter)
    gc.collect()  # arrays of other tests; some may go later, so that a square is large beside them
    before, square = live_bytes(jax.devices()[0]), 2048 * 2048 * 4
    x = devices.replicate(np.zeros((2048, 2048), np.float32))
    assert live_bytes(jax.devices()[0]) - before == pytest.approx(square, rel=0.1)
    product = CompiledFunction(devices, lambda x: jnp.sin(x @ x) @ x, phase=Phase.SCORE)
    result = product(x)
    # The argument is live; the result and at least one square in between are added.
    assert 2.9 * square <= meter.peak() - before < 8 * square
    assert result.shape == (2048, 2048)


def test_an_array_that_is_spread_counts_by_its_share():
    before = live_bytes(jax.devices()[1])
    spread = Devices().shard(np.zeros((8, 128), np.float32))
    assert live_bytes(jax.devices()[1]) == before + 2 * 128 * 4
    assert spread.shape == (8, 128)


def test_the_process_holds_something():
    meter = MemoryMeter(jax.devices()[0])
    meter.observe(0)
    assert meter.resident > 10_000_000
    assert meter.resident_now() > 10_000_000


FUSED = [f"__cudnn$fmha{bias}Softmax{way}" for bias in ("", "ScaleBias") for way in ("", "Backward")]


@pytest.fixture
def cudnn(monkeypatch):
    """As where JAX finds cuDNN, and a card that has it."""
    module = "jax._src.cudnn.fused_attention_stablehlo"
    monkeypatch.setattr(f"{module}.check_cudnn_version", lambda: 91100)
    monkeypatch.setattr(f"{module}.check_compute_capability", lambda capability: True)
    monkeypatch.setattr(f"{module}.is_cuda_compute_capability_equal", lambda capability: False)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
class TestLowering:
    """jax.export compiles for platforms that are not here, as far as their compilers' input."""

    def lower(self, function, *arguments, platform, donate=()):
        program = jax.jit(function, donate_argnums=donate)
        allowed = [jax.export.DisabledSafetyCheck.custom_call(name) for name in FUSED]
        exported = jax.export.export(program, platforms=[platform], disabled_checks=allowed)(*arguments)
        assert exported.platforms == (platform,)
        return exported.mlir_module()

    def test_sampling(self, platform):
        model = small_model(layers=2, kv_heads=1)

        def play(params, prompt, length, admission, observation):
            sampling, key = Sampling(2, 0.9), jax.random.key(0)
            prompts = read_prompts(model, params, prompt, length)
            slots = admit(model, idle(model, 4, 16), prompts, key, admission, sampling)
            slots, first = decode(model, params, slots, key, sampling, 3)
            slots = answer(model, params, slots, key, observation, sampling)
            slots = reread(model, params, slots, jnp.zeros((4, 16), jnp.int32), jnp.ones(4, jnp.int32))
            return first, decode(model, params, slots, key, sampling, 3)[1]

        params = jax.eval_shape(model.init, jax.random.key(0))
        prompt, length = jnp.zeros((2, 3), jnp.int32), jnp.ones(2, jnp.int32)
        numbers = jnp.zeros(4, jnp.int32)
        admission = Admission(numbers, jnp.zeros((4, 2), jnp.uint32), jnp.zeros(4, bool), numbers)
        observation = Observation(numbers[:2], jnp.zeros((2, 3), jnp.int32), numbers[:2], numbers[:2])
        self.lower(play, params, prompt, length, admission, observation, platform=platform)

    @pytest.mark.parametrize("name", ALGORITHMS)
    def test_a_learner_step(self, platform, name, cudnn):
        """In bfloat16, with donated buffers, the fused attention of the device, and prompts that groups share."""
        attention = "cudnn" if platform == "cuda" else "xla"
        model = small_model(layers=2, width=128, heads=1, kv_heads=1, compute_dtype="bfloat16", attention=attention)
        algorithm = algorithm_of(name, model)
        optimizer = adamw(
            10,
            learning_rate=1e-3,
            warmup=2,
            final_lr_fraction=0.1,
            b1=0.9,
            b2=0.99,
            epsilon=1e-8,
            weight_decay=0.1,
            max_grad_norm=1,
        )
        learner = Learner(
            algorithm, optimizer, UpdateConfig(1, 1, 200), Devices(), seed=0, donate=True, widths=Widths(8, 16)
        )
        state = jax.eval_shape(learner.init, jax.random.key(0), jax.eval_shape(model.init, jax.random.key(1)), None)
        rollouts, prompts = shapes(12, 24), jax.ShapeDtypeStruct((12 // max(algorithm.group_size, 1),), np.int32)
        scored = state.trainable, state.frozen, rollouts, prompts, jnp.int32(0)
        self.lower(learner._score, *scored, platform=platform)
        (scores, teaches), rows = jax.eval_shape(learner._score, *scored), np.arange(12, dtype=np.int32)
        updated = state.trainable, state.opt_state, state.frozen, rollouts, prompts, scores, teaches, rows
        program = self.lower(learner._update, *updated, platform=platform, donate=(0, 1))
        assert "jax.buffer_donor" in program or "tf.aliasing_output" in program
        assert ("fmhaScaleBiasSoftmaxBackward" in program) == (platform == "cuda")


def test_a_device_without_memory_left_says_for_what_and_what_helps(devices):
    """70 TB: more than any machine has, in a program that compiles."""
    program = CompiledFunction(devices, lambda x: jnp.ones((1 << 24, 1 << 20)) * x[:1], phase=Phase.SCORE)
    with pytest.raises(OutOfMemory) as raised:
        program(jnp.zeros((4, 3))[:, 0])
    (line,) = str(raised.value).splitlines()
    assert "adds 70368.74 GB" in line and "float32[4]" in line and "batch.rollouts" in line
