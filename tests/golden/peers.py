"""Recorded results of published libraries on random inputs, and our algorithms on the same inputs.

TRL 1.16.0, verl 0.9.1 and AReaL (4aef98d). Keys in_* are inputs; the others are outputs, `<...>.grad` the
gradient with respect to in_logp and `<...>.grad_value` that with respect to in_new_value.
"""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from rlbench.types import Algorithm, Array, Model, Rollouts
from tests.fakes import algorithm_of

INPUTS = {
    "in_logp", "in_old_logp", "in_behave_logp", "in_ref_logp", "in_mask", "in_reward", "in_score", "in_group",
    "in_value", "in_new_value", "in_advantage", "in_sequence_advantage",
}  # fmt: skip


def folders() -> list[Path]:
    """Folders of recorded files: here, and where RLBENCH_GOLDEN says."""
    return [Path(__file__).parent, *map(Path, filter(None, [os.environ.get("RLBENCH_GOLDEN")]))]


def files() -> list[Path]:
    return [path for folder in folders() for path in sorted(folder.glob("peers_seed*.npz"))]


class Peers:
    """One recorded file. Completions are columns; a column for the prompt is put before them."""

    def __init__(self, path: Path):
        with np.load(path) as file:
            self.recorded: Mapping[str, np.ndarray] = dict(file)

    @cached_property
    def mask(self) -> np.ndarray:
        return self.recorded["in_mask"] > 0

    @cached_property
    def group(self) -> np.ndarray:
        """i32[B], numbered from 0."""
        return np.unique(self.recorded["in_group"], return_inverse=True)[1].astype(np.int32)

    @cached_property
    def valid(self) -> np.ndarray:
        return self.mask.any(axis=1)

    def per_token(self, name: str) -> Array:
        """An input f32[B, T], the prompt's column before it."""
        return with_prompt(self.recorded[f"in_{name}"])

    def params(self, name: str) -> Array:
        """An input f32[B, T - 1] as the parameters of the fake model: what it says of every token but the first."""
        return jnp.asarray(self.recorded[f"in_{name}"])

    def rollouts(self, sampled_by: str = "old_logp", mask: np.ndarray | None = None) -> Rollouts:
        mask = self.mask if mask is None else mask
        tokens = with_prompt(np.ones(mask.shape, np.int32))
        return Rollouts(
            tokens=tokens,
            mask=with_prompt(mask),
            logp=self.per_token(sampled_by),
            reward=self.per_token("reward"),
            group=jnp.asarray(self.group),
            version=jnp.zeros_like(tokens),
        )


def with_prompt(x: np.ndarray) -> Array:
    return jnp.pad(jnp.asarray(x), ((0, 0), (1, 0)))


def completions(x: Array) -> Array:
    """Of [B, T], the columns that were recorded."""
    return x[:, 1:]


def recorded_model() -> Model:
    """A model whose parameters are what it says: log-probabilities or values of every token but the first.

    Its outputs are those of the two tokens that there are. Nothing but `apply` is asked of it; a critic is
    the same model with parameters of its own.
    """

    def apply(params: Array, tokens: Array) -> Array:
        assert params.shape == tokens.shape
        return jnp.stack([params, params], axis=-1)

    def nothing(*_, **__):
        raise AssertionError("not asked of a recorded model")

    return Model(
        init=nothing, apply=apply, extend=nothing, cache=nothing, resized=lambda *_, **__: recorded_model(),
        size=nothing, emits=np.ones(2, bool), temperature=1.0, dtype="float32", chunk_tokens=10**9,
    )  # fmt: skip


def algorithm(option: str, **changes) -> Algorithm:
    """The algorithm of a shipped preset, some of its numbers changed, on the recorded model."""
    return algorithm_of(option, recorded_model(), **changes)
