"""The learner: one batch in, one version of the parameters out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..accounting.account import Account, Room
from ..accounting.timeline import Activity
from ..devices import CompiledFunction, Devices, in_chunks, in_chunks_by
from ..interrupts import patiently
from ..models.prefix import Widths, sharing
from ..types import Algorithm, Array, Diverged, LearnerState, Loss, Params, Phase, Rollouts, frozen_stays


class UpdateConfig(NamedTuple):
    """Use of a batch. One epoch passes over all of it, one minibatch is one optimizer update."""

    epochs: int
    minibatches: int
    microbatch_tokens: int  # at most so many tokens of a device, padding too, go through a gradient at once; or one row
    nonfinite: Literal["stop", "skip"] = "stop"  # the run, or the update, where its loss or gradient is not finite


class Learner:
    """Scores a batch once, then takes epochs * minibatches optimizer updates on it.

    Every component at the top of the trainable pytree has an optimizer state of its own, so that
    gradient clipping of one never holds back another.

    Args:
      donate: whether the parameters' buffers may be reused for the next version. Only where no
        actor holds them; the optimizer state's always are.
      widths: of prompts and of what follows them; None: the network reads every row by itself.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        optimizer: optax.GradientTransformation,
        update_config: UpdateConfig,
        devices: Devices,
        *,
        seed: int,
        donate: bool,
        account: Account | None = None,
        widths: Widths | None = None,
    ):
        self.algorithm, self.optimizer, self.update_config, self.devices = algorithm, optimizer, update_config, devices
        self.widths = widths
        self.seed, self.account = seed, account or Account()
        idle = algorithm.idle_without_advantage
        self.score = CompiledFunction(devices, self._score, networks=(0, 1), phase=Phase.SCORE, account=self.account)
        self.update = CompiledFunction(
            devices,
            self._update,
            donate=(0, 1) if donate else (1,),
            networks=(0, 1, 2),
            phase=Phase.OPTIMIZER,
            iterations=[lambda result: result[3][0], lambda result: result[3][1]] if idle else (),
            account=self.account,
        )
        self.after = CompiledFunction(
            devices,
            algorithm.after,
            donate=(1,) if donate else (),
            networks=(0, 1),
            phase=Phase.OPTIMIZER,
            account=self.account,
        )

    def init(self, key: Array, policy: Params, rollouts: Rollouts) -> LearnerState:
        """A fresh state. What the algorithm returns is copied once: it may alias the policy.

        Args:
          rollouts: shapes of a batch with the longest rows.
        """
        trainable, frozen = jax.tree.map(jnp.copy, self.algorithm.init(key, policy, rollouts))
        opt_state = {name: self.optimizer.init(params) for name, params in trainable.items()}
        trainable, frozen, opt_state = self.devices.replicate((trainable, frozen, opt_state))
        return LearnerState(trainable, frozen, opt_state, version=0)

    def prepare_aside(self, state: LearnerState, rollouts: Rollouts, prompts: Any) -> None:
        """Compiles the programs of a step, from a thread without an account.

        Args:
          rollouts: shapes of a batch.
          prompts: shape of its prompts' lengths.
        """

        def on_devices(shapes: Any, sharding: Any) -> Any:
            return jax.tree.map(
                lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, sharding
            )

        trainable, frozen, opt_state, _ = state
        prompts = prompts if self.widths else None
        batch = rollouts, prompts
        rollouts, prompts = on_devices(batch, jax.tree.map(lambda _: self.devices.rows, batch))
        scored = trainable, frozen, rollouts, prompts, jnp.int32(0)
        program = self.score.prepare_aside(*scored)
        scores, teaches = on_devices(jax.eval_shape(self._score, *scored), program.executable.output_shardings)
        rows = np.zeros(len(rollouts.group) // self.update_config.minibatches, np.int32)
        mine = self.devices.handed(rows)
        self.update.prepare_aside(trainable, opt_state, frozen, rollouts, prompts, scores, teaches, mine)

    def step(
        self, state: LearnerState, rollouts: Rollouts, prompts: Array | None = None
    ) -> tuple[LearnerState, dict[str, float], np.ndarray]:
        """One learner step on one batch, as in `spend`.

        Raises:
          Diverged: a metric is not finite.
        """
        stepped = self.spend(state, rollouts, prompts)
        expect_finite(stepped[0].version, stepped[1])
        return stepped

    def spend(
        self, state: LearnerState, rollouts: Rollouts, prompts: Array | None = None
    ) -> tuple[LearnerState, dict[str, float], np.ndarray]:
        """One learner step on one batch, whatever becomes of it.

        Returns the next state, metrics as means over the step's updates (`mean_of`), and bool[B]: which rollouts
        teach, their advantage not being zero everywhere. Where there is no advantage, all that happened do.

        Args:
          prompts: i32[N], tokens of the prompt that each B / N neighbouring rows share: it is then read once for all
            of them, and they stay together. None: rows have nothing in common.
        """
        with self.account.during(Activity.COMPUTING):
            return patiently(self._spend, state, rollouts, prompts)  # whole: a change of threads is dear

    def room(self, length: int, group: int) -> Room:
        """Positions of rows of T = length tokens that go through a network, where so many share a prompt."""
        if not self.widths:
            return Room(0, length - 1)
        widths = self.widths.within(length)
        return Room(widths.prompt, widths.continuation - 1, group)

    def _spend(self, state, rollouts, prompts):
        trainable, frozen, opt_state, version = state
        prompts = prompts if self.widths else None
        scores, teaches = self.score(trainable, frozen, rollouts, prompts, jnp.int32(version))
        random = np.random.default_rng([self.seed, version])
        reports, size = [], together(rollouts, prompts)
        for _ in range(self.update_config.epochs):
            groups = random.permutation(len(rollouts.group) // size).astype(np.int32)
            for some in groups.reshape(self.update_config.minibatches, -1):
                mine = self.devices.handed((some[:, None] * size + np.arange(size, dtype=np.int32)).ravel())
                trainable, opt_state, report, _ = self.update(
                    trainable, opt_state, frozen, rollouts, prompts, scores, teaches, mine
                )
                reports.append(report)
        if self.algorithm.after is not frozen_stays:
            frozen = self.devices.replicate(self.after(trainable, frozen, rollouts, scores))
        reports, teaches = jax.device_get((reports, teaches))
        means = {name: mean_of(name, [report[name] for report in reports]) for name in reports[0]}
        return LearnerState(trainable, frozen, opt_state, version + 1), means, teaches

    def _score(self, trainable, frozen, rollouts, prompts, version):
        with sharing(rollouts, prompts, self.widths):
            scores = self.algorithm.score(trainable, frozen, rollouts, version)
        advantage = scores.get("advantage", 1.0)
        return scores, jnp.any(rollouts.mask & (advantage != 0.0), axis=-1)

    def _update(self, trainable, opt_state, frozen, rollouts, prompts, scores, teaches, rows):
        microbatches, teaching = self._microbatches(rollouts, prompts, scores, teaches, rows)

        def total(params: Params, microbatch: tuple[Rollouts, Array | None, Any]) -> tuple[Array, Loss]:
            mine, length, scored = microbatch
            with jax.named_scope(Phase.FORWARD), sharing(mine, length, self.widths):
                loss = self.algorithm.loss(params, frozen, mine, scored)
            return loss.total, loss

        gradient_of = jax.grad(total, has_aux=True)

        def accumulate(sums: Any, microbatch: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, gradient_of(trainable, microbatch)), None

        shapes = jax.eval_shape(gradient_of, trainable, jax.tree.map(lambda x: x[0], microbatches))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shapes)  # whatever the parameters' dtype
        if self.algorithm.idle_without_advantage:
            (gradient, loss), passes = self._accumulate(gradient_of, total, trainable, zeros, microbatches, teaching)
        else:
            ((gradient, loss), _), passes = jax.lax.scan(accumulate, zeros, microbatches), ()
        weight = jnp.maximum(loss.weight, 1e-9)  # of a batch in which no valid row
        gradient = jax.tree.map(lambda g, p: (g / weight).astype(p.dtype), gradient, trainable)

        report = {name: s / jnp.maximum(w, 1e-9) for name, (s, w) in loss.metrics.items()}
        report["loss"] = loss.total / weight
        params, states = {}, {}
        for name, part in gradient.items():
            report[f"grad_norm/{name}"] = optax.tree.norm(part)
            change, states[name] = self.optimizer.update(part, opt_state[name], trainable[name])
            params[name] = optax.apply_updates(trainable[name], change)
            report[f"param_norm/{name}"] = optax.tree.norm(params[name])
        if self.update_config.nonfinite == "skip":
            sound = jnp.isfinite(jnp.stack(jax.tree.leaves(report))).all()
            before = trainable, opt_state
            params, states = jax.tree.map(lambda new, old: jnp.where(sound, new, old), (params, states), before)
            report["skipped_updates"] = 1.0 - sound
        if passes:
            report["left_out"] = passes[1] / len(teaching)
        return params, states, report, passes

    @staticmethod
    def _accumulate(gradient_of, total, trainable, zeros, microbatches, teaching):
        """Sums over microbatches: with gradients of those that teach, which come first; of the others, the loss alone.

        Returns them, and how many there were of each kind.
        """
        number = len(teaching)
        teach = teaching.sum(dtype=jnp.int32)

        def at(place: Array) -> Any:
            return jax.tree.map(lambda x: x[place], microbatches)

        def with_gradient(place: Array, sums: Any) -> Any:
            return jax.tree.map(jnp.add, sums, gradient_of(trainable, at(place)))

        def alone(place: Array, loss: Loss) -> Loss:
            return jax.tree.map(jnp.add, loss, total(trainable, at(place))[1])

        gradient, loss = jax.lax.fori_loop(0, teach, with_gradient, zeros)
        return (gradient, jax.lax.fori_loop(teach, number, alone, loss)), (teach, number - teach)

    def _microbatches(self, rollouts, prompts, scores, teaches, rows):
        """Rows in chunks [count, ...], each of whole groups; and which of them have rows that teach, as bool[count].

        Where rows that do not are idle, groups of them are in chunks of their own, at the end.
        """
        size = together(rollouts, prompts)
        groups, width = len(rows) // size, rollouts.tokens.shape[1] * size
        if prompts is not None and self.widths:
            width = self.widths.within(rollouts.tokens.shape[1]).tokens(size)
        most = self.update_config.microbatch_tokens
        if self.algorithm.idle_without_advantage:
            order = in_chunks_by(teaches[rows].reshape(groups, size).any(axis=1), width, most)
            rows = rows.reshape(groups, size)[order].ravel()
        if prompts is not None:
            prompts = prompts[rows[::size] // size]

        def by_group(x: Array) -> Array:
            return x[rows].reshape(groups, size, *x.shape[1:])

        def by_row(x: Array) -> Array:
            return x.reshape(len(x), -1, *x.shape[3:])

        tree = jax.tree.map(by_group, (rollouts, scores, teaches)), prompts
        (batch, scores, teaches), prompts = in_chunks(tree, groups, width, most)
        microbatches = jax.tree.map(by_row, batch), prompts, jax.tree.map(by_row, scores)
        return microbatches, teaches.any(axis=(1, 2))


def together(rollouts: Rollouts, prompts: Array | None) -> int:
    """Neighbouring rows that share a prompt."""
    return 1 if prompts is None else len(rollouts.group) // len(prompts)


def mean_of(name: str, values: Sequence[Any]) -> float:
    """A metric of a step's updates: their mean, or how many were skipped."""
    return float(np.sum(values) if name == "skipped_updates" else np.mean(values))


def expect_finite(step: int, metrics: Mapping[str, float]) -> None:
    """Holds the metrics of a learner step to numbers.

    Raises:
      Diverged: one is not finite.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(step, name, value)
