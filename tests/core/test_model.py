"""Does sampling agree with what a full forward pass says?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlbench.acting.slots import Sampling, read_prompts, truncate
from rlbench.devices import Devices
from rlbench.models.cache import begun
from rlbench.models.likelihood import log_policy, token_logp, token_value
from rlbench.models.tokenizers import END, PAD
from tests.fakes import LETTERS, Copy, TwoTurns, player_of, problems_of, rollouts_of, rough, small_model


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_sampled_logp_is_that_of_a_full_forward_pass(devices, temperature, kv_heads):
    model = small_model(layers=2, kv_heads=kv_heads, temperature=temperature)
    params = rough(model.init(jax.random.key(0)))
    batch = player_of(model, Copy(), devices, completion=5).play(
        params, problems_of(Copy(), 48), 4, first_id=0, version=0
    )
    lengths = {t.prompt_tokens for t in batch.trajectories}, {t.completion_tokens for t in batch.trajectories}
    assert min(map(len, lengths)) > 2, "the test wants ragged prompts and completions"
    logp = token_logp(model, params, jax.tree.map(jnp.asarray, batch.rollouts))
    np.testing.assert_allclose(np.where(batch.rollouts.mask, batch.rollouts.logp, 0), logp, atol=1e-4)


def test_sampled_logp_holds_over_several_turns(devices):
    model = small_model(layers=2)
    params = rough(model.init(jax.random.key(0)))
    actor = player_of(model, TwoTurns(), devices, completion=4)
    batch = actor.play(params, problems_of(TwoTurns(), 8), 4, first_id=0, version=0)
    assert len({t.completion_tokens for t in batch.trajectories}) > 2, "the test wants ragged completions"
    logp = token_logp(model, params, jax.tree.map(jnp.asarray, batch.rollouts))
    np.testing.assert_allclose(batch.rollouts.logp, logp, atol=1e-4)


def test_extending_piecewise_is_the_same_as_reading_at_once():
    model = small_model(layers=2)
    params = rough(model.init(jax.random.key(0)))
    tokens = jax.random.randint(jax.random.key(1), (2, 6), 2, 6)
    whole = model.apply(params, tokens)
    _, prompts = model.extend(params, model.cache(2, 3), tokens[:, :3], jnp.array([3, 2]))
    cache = begun(model.cache(4, 7), jnp.array([0, 0, 1, 1]), prompts)
    # Rows 0 and 1 go on from three tokens of prompt 0, rows 2 and 3 from two of prompt 1.
    rest = jnp.stack([tokens[0, 3:6], tokens[0, 3:6], tokens[1, 2:5], tokens[1, 2:5]])
    outputs, cache = model.extend(params, cache, rest, jnp.array([3, 1, 3, 1]))
    expected = jnp.stack([whole[0, 5], whole[0, 3], whole[1, 4], whole[1, 2]])
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    # The shorter rows have padding behind them; what is appended overwrites it.
    outputs, _ = model.extend(params, cache, rest[:, 1:2], jnp.array([0, 1, 0, 1]))
    np.testing.assert_allclose(outputs[1], whole[0, 4], atol=1e-5)
    np.testing.assert_allclose(outputs[3], whole[1, 3], atol=1e-5)


def test_no_token_sees_a_later_one():
    model = small_model(layers=2)
    params = rough(model.init(jax.random.key(0)))
    tokens = jax.random.randint(jax.random.key(1), (1, 6), 2, 6)
    changed = tokens.at[0, 4].set(PAD)
    before, after = model.apply(params, tokens), model.apply(params, changed)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4] != after[:, 4]).any()


def test_grouped_query_attention_is_attention_with_repeated_heads():
    grouped, full = small_model(heads=4, kv_heads=2), small_model(heads=4, kv_heads=4)
    params = grouped.init(jax.random.key(0))
    kernel = params["blocks_0"]["qkv"]["kernel"].reshape(16, 8, 4)  # 4 queries, 2 keys, 2 values
    repeated = jnp.concatenate([kernel[:, :4], jnp.repeat(kernel[:, 4:6], 2, 1), jnp.repeat(kernel[:, 6:], 2, 1)], 1)
    block = params["blocks_0"] | {"qkv": {"kernel": repeated.reshape(16, 48)}}
    tokens = jax.random.randint(jax.random.key(1), (2, 5), 2, 6)
    np.testing.assert_allclose(
        grouped.apply(params, tokens), full.apply(params | {"blocks_0": block}, tokens), atol=1e-6
    )


def test_pads_are_never_sampled_and_the_rest_sums_to_one():
    model = small_model(temperature=0.5)
    logp = log_policy(model, jax.random.normal(jax.random.key(0), (3, LETTERS.vocabulary)))
    assert np.isneginf(logp[:, PAD]).all()
    np.testing.assert_allclose(jnp.exp(logp).sum(axis=-1), 1, atol=1e-6)


def test_logp_of_token_t_comes_from_outputs_at_t_minus_1():
    model = small_model()
    params = rough(model.init(jax.random.key(0)))
    rollouts = rollouts_of(np.zeros((1, 4)), mask=[[False, False, True, True]])
    rollouts = rollouts._replace(tokens=jnp.array([[2, 5, 3, END]]))
    expected = log_policy(model, model.apply(params, rollouts.tokens))
    logp = token_logp(model, params, rollouts)
    np.testing.assert_allclose(logp, [[0, 0, expected[0, 1, 3], expected[0, 2, END]]], atol=1e-6)


def test_chunks_change_nothing():
    rollouts = rollouts_of(np.zeros((6, 4)), mask=np.arange(24).reshape(6, 4) % 3 > 0)
    whole, chunked = small_model(), small_model(chunk_tokens=8)
    params = rough(whole.init(jax.random.key(0)))
    np.testing.assert_allclose(token_logp(whole, params, rollouts), token_logp(chunked, params, rollouts), atol=1e-6)


@pytest.mark.parametrize("chunk_tokens", [16, 8, 3, 1])
@pytest.mark.parametrize("count", [1, 4], ids=["one device", "four devices"])
def test_prompts_and_answers_that_are_read_in_chunks_are_read_the_same(chunk_tokens, count):
    """Chunks of several problems, of one, and of some of its tokens."""
    devices = Devices(jax.devices()[:count])
    params = rough(small_model().init(jax.random.key(0)))
    whole, chunked = (
        player_of(small_model(chunk_tokens=most), TwoTurns(), devices).play(
            params, problems_of(TwoTurns(), 8), 2, first_id=0, version=0
        )
        for most in (4096, chunk_tokens)
    )
    assert len({t.completions for t in whole.trajectories}) > 4
    assert [t.completions for t in whole.trajectories] == [t.completions for t in chunked.trajectories]
    np.testing.assert_allclose(whole.rollouts.logp, chunked.rollouts.logp, atol=1e-5)


def prefilled(prompts: int, length: int, chunk_tokens: int, devices: Devices):
    """The compiled program that reads prompts of this length."""
    model = small_model(chunk_tokens=chunk_tokens)
    tokens, lengths = jnp.full((prompts, length), 2, jnp.int32), jnp.full(prompts, length, jnp.int32)

    def read(params, tokens, lengths):
        return read_prompts(model, params, tokens, lengths)

    arguments = (devices.replicate(model.init(jax.random.key(0))), *devices.shard((tokens, lengths)))
    with jax.set_mesh(devices.mesh):
        return jax.jit(read).lower(*arguments).compile()


def test_memory_of_reading_prompts_is_bounded_by_chunk_tokens(devices):
    """Scores of attention are what grows: 4 bytes a head (of 2), token of a chunk, and token that it sees."""

    def temporary(*sizes):
        return prefilled(*sizes, devices).memory_analysis().temp_size_in_bytes

    def scores(tokens, seen):
        return 2 * 4 * tokens * seen

    cache = 8 * 512 * 2 * 16 * 4
    whole, chunked, long = temporary(8, 512, 4096), temporary(8, 512, 64), temporary(8, 1024, 64)
    assert whole > scores(8 * 512, 512)
    assert chunked < 3 * scores(64, 512) + 3 * cache < whole / 4
    assert long < 2.2 * chunked, "of the prompt's length, not of its square"


def test_reading_in_chunks_moves_no_row_to_another_device():
    program = prefilled(16, 6, 6, Devices()).as_text()
    assert not any(word in program for word in ("all-gather", "all-to-all", "collective-permute"))


def test_a_critic_is_a_model_with_one_output_of_any_size():
    critic = small_model().resized(1, width=8, hidden=8)
    params = critic.init(jax.random.key(0))
    assert critic.apply(params, jnp.zeros((2, 3), jnp.int32)).shape == (2, 3, 1)
    assert token_value(critic, params, rollouts_of(np.zeros((2, 3)))).shape == (2, 3)


@pytest.mark.parametrize("compute", ["bfloat16", "float16"])
def test_compute_dtype_changes_the_arithmetic_not_the_outputs_type(compute):
    model = small_model(compute_dtype=compute, param_dtype="float32")
    params = model.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert model.cache(1, 1).keys[0].dtype == jnp.dtype(compute)
    assert model.apply(params, jnp.zeros((1, 2), jnp.int32)).dtype == jnp.float32


def test_parameters_may_be_bfloat16():
    params = small_model(param_dtype="bfloat16").init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}


class TestTruncation:
    logp = jnp.log(jnp.array([[0.5, 0.25, 0.15, 0.1]]))

    def kept(self, **settings) -> list[bool]:
        return np.isfinite(truncate(self.logp, Sampling(**settings)))[0].tolist()

    def test_top_k_keeps_the_k_most_probable(self):
        assert self.kept(top_k=2) == [True, True, False, False]

    def test_top_p_keeps_the_fewest_that_hold_p(self):
        assert self.kept(top_p=0.5) == [True, False, False, False]
        assert self.kept(top_p=0.6) == [True, True, False, False]
        assert self.kept(top_p=0.95) == [True, True, True, True]

    def test_top_p_of_nothing_keeps_the_most_probable(self):
        assert self.kept(top_p=0.0) == [True, False, False, False]

    def test_top_p_works_on_what_top_k_left(self):
        assert self.kept(top_k=2, top_p=0.66) == [True, False, False, False]
