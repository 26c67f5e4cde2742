"""All of a run's state after a learner step: gathered into a checkpoint, and taken up from one."""

import logging
import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .accounting import SCHEMA
from .checkpoint import Checkpoints, Packed, by_name
from .models.trained import POLICY
from .parts import LEARNER, Parts
from .plan import Plan
from .recorder import Recorder
from .running.actor import Actor
from .types import ConfigError, LearnerState

log = logging.getLogger(__name__)


def origin(plan: Plan) -> dict[str, Any]:
    """The config, the versions and the machine that a checkpoint is of."""
    device = plan.devices[0]
    machine = {
        "devices": f"{len(plan.devices)} {device.platform} {device.device_kind}",
        "processor": platform.machine(),
        "jax": version("jax"),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }
    return {"rlbench": version("rlbench"), "schema": SCHEMA, "config": plan.lasting, "machine": machine}


class RunState(NamedTuple):
    """State to go on from."""

    step: int  # learner steps that it is after
    steps: int  # that the run was to have
    arrays: Mapping[str, np.ndarray]
    recorder: dict[str, Any]
    accounts: dict[str, dict[str, Any]]
    actor: dict[str, Any]

    @classmethod
    def newest(cls, checkpoints: Checkpoints, plan: Plan) -> "RunState | None":
        """That of the newest checkpoint which is as it was written.

        Raises:
          ConfigError: it is of another config or version, or beyond the plan's last step.
        """
        if not (found := checkpoints.newest()):
            return None
        if found.step > plan.steps:
            raise ConfigError("steps", plan.steps, f"at least {found.step}: the run in this folder has come so far")
        arrays = found.arrays()
        rest = found.rest(arrays)
        rest["actor"] = Packed(rest["actor"], arrays).open()
        log.info("the run goes on from step %d", found.step)
        state = cls(found.step, arrays=arrays, **rest)
        if state.steps != plan.steps and depends(plan.optimizer_for, state.steps, plan.steps):
            log.warning(
                "steps=%d instead of %d: the learning rate goes on as if there had been %d from the start",
                *(plan.steps, state.steps, plan.steps),
            )
        return state


class Saver:
    """Writes checkpoints of a run when they are due.

    Between two learner steps everything is copied to the host; it is written beside the next ones.
    """

    def __init__(self, plan: Plan, parts: Parts, recorder: Recorder, checkpoints: Checkpoints):
        self.plan, self.parts, self.recorder, self.checkpoints = plan, parts, recorder, checkpoints
        self._owed, self._last = False, time.monotonic()

    def after(self, state: LearnerState, actor: Actor, *, ends: bool) -> None:
        """Begins to write a checkpoint of the step just taken, if one is due.

        One that is due while another is being written comes after a later step.

        Args:
          ends: whether this was the last step: then one is written, and waited for.
        """
        if not self.plan.checkpoint.keep:
            return
        self._owed |= self._due(state.version)
        if not ends and (not self._owed or self.checkpoints.busy):
            return
        if acting := actor.state():
            content = {
                "steps": self.plan.steps,
                "recorder": self.recorder.state(),
                "accounts": {name: account.state() for name, account in self._accounts.items()},
                "actor": acting.pickled,
            }
            mine, (learner, policy) = Packed.of(content, "run"), self._networks(state)
            self.checkpoints.save(
                *(state.version, learner | acting.arrays | mine.arrays, mine.pickled),
                accuracy=self.recorder.accuracy_at(state.version),
                policy=policy,
            )
            self._owed, self._last = False, time.monotonic()
        elif ends:
            log.warning("there is no checkpoint of step %d, since acting has failed", state.version)
        if ends:
            self.checkpoints.wait()

    def _networks(self, state: LearnerState) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Arrays of the learner and of the policy, by name; and the name of each of the policy's among these."""
        parts = {name: tree for name, tree in state._asdict().items() if name != "version"}
        learner, policy = by_name(parts, LEARNER), by_name(self.parts.policy(state), POLICY)
        known = {id(array): name for name, array in learner.items()}
        places = {name: known.get(id(array), name) for name, array in policy.items()}
        arrays = jax.device_get(learner | {name: policy[name] for name in places.values() if name in policy})
        return {name: np.array(array) for name, array in arrays.items()}, places  # the next step may take the buffers

    def close(self) -> None:
        """Nothing more is written, but what was begun."""
        self.checkpoints.close()

    def restore(self, accounts: Mapping[str, Mapping[str, Any]]) -> None:
        """Accounts go on from a state."""
        for name, account in self._accounts.items():
            account.restore(accounts[name])

    @property
    def _accounts(self) -> dict[str, Any]:
        return {name: account for name, account in self.parts.accounts.items() if name != "actor"}

    def _due(self, step: int) -> bool:
        every, seconds = self.plan.checkpoint.every, self.plan.checkpoint.seconds
        return bool(every and step % every == 0) or bool(seconds and time.monotonic() - self._last >= seconds)


def depends(optimizer_for: Callable[[int], optax.GradientTransformation], before: int, now: int) -> bool:
    """True if an optimizer does something else, half-way through, where a run has another number of steps."""
    params = {"w": jnp.ones((2, 2))}

    def half_way(steps: int) -> Any:
        optimizer = optimizer_for(steps)
        state = jax.tree.map(  # it counts updates in whole numbers
            lambda x: jnp.full_like(x, before // 2) if jnp.issubdtype(x.dtype, jnp.integer) else x,
            optimizer.init(params),
        )
        return optimizer.update(params, state, params)[0]["w"]

    return not np.array_equal(half_way(before), half_way(now))
