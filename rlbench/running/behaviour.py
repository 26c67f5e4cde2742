"""The distance of the policy that is trained from those that sampled, whatever the algorithm does about it."""

import jax
import jax.numpy as jnp

from ..accounting.account import Account
from ..accounting.timeline import Activity
from ..devices import CompiledFunction, Devices
from ..models.likelihood import token_logp
from ..types import Algorithm, Array, LearnerState, Model, Params, Phase, Rollouts

SHARE = 8  # one row of so many is looked at: a pass over all would cost a quarter of a learner step


class BehaviourRatio:
    """Measures the ratio w = policy / behaviour policy of tokens before a learner step.

    No algorithm needs it, so that what it costs is booked with evaluation.
    """

    def __init__(self, algorithm: Algorithm, model: Model, devices: Devices, account: Account):
        self.account = account

        def ratios(trainable: Params, frozen: Params, rollouts: Rollouts) -> dict[str, Array]:
            rows = len(rollouts.group)
            few = max(rows // SHARE, 1)
            few += -few % len(devices.devices)
            some: Rollouts = jax.tree.map(lambda x: x[: rows - rows % few : rows // few], rollouts)
            logp = token_logp(model, algorithm.acting(trainable, frozen), some)
            weight = jnp.where(some.mask, jnp.exp(jnp.where(some.mask, logp - some.logp, 0.0)), 0.0)
            tokens = jnp.maximum(some.mask.sum(), 1)
            mean, square = weight.sum() / tokens, (weight**2).sum() / tokens
            return {
                "behaviour/effective_sample_size": mean**2 / jnp.maximum(square, 1e-30),
                "behaviour/chi2": square - 1.0,
                "behaviour/ratio_max": weight.max(),
                "behaviour/ratio_above_2": (weight > 2.0).sum() / tokens,
            }

        self.ratios = CompiledFunction(devices, ratios, networks=(0, 1), phase=Phase.SCORE, account=account)

    def measure(self, state: LearnerState, rollouts: Rollouts) -> dict[str, float]:
        """Metrics of a batch: the share of it that counts (1 on fresh data), and chi squared.

        (sum w)^2 / (n sum w^2), and the mean of w^2 less 1, over every eighth row.
        """
        with self.account.during(Activity.COMPUTING):
            measured = jax.device_get(self.ratios(state.trainable, state.frozen, rollouts))
        return {name: float(value) for name, value in measured.items()}
