"""The table of recorded keys: the computation that each is compared with, the preset in it and its settings.

A number in a key is the setting that the braces name. Settings that a computation does not take itself are the
preset's, which keeps its own where a row is silent. Two rows of one key are two comparisons. docs/conventions.md
names the sections.
"""

from collections.abc import Callable
from string import Formatter
from typing import Any

from rlbench.learning.estimators import k1, k2, k3
from tests.golden.computations import (
    baseline,
    baseline_by_parts,
    decoupled,
    gae,
    group_advantage,
    kl,
    policy_loss,
    sum_of_advantages,
    sum_of_rewards,
    trl_cispo,
    trl_dr_grpo,
    trl_gspo,
    trl_loss,
    trl_loss_of_all_rows,
    uncorrected,
    value_loss,
    value_loss_by_parts,
    whitened_returns,
)
from tests.golden.peers import Peers


class Row:
    def __init__(self, key: str, computation: Callable, *preset: str, **settings: Any):
        self.key, self.computation, self.preset, self.settings = key, computation, preset, settings
        self.name = " ".join([computation.__name__, *preset])

    def compute(self, peers: Peers, key: str) -> Any:
        return self.computation(peers, *self.preset, **self.settings, **numbers(self.key, key))


# Arrays are compared as they are.
ARRAYS = {
    "inputs": [
        Row("in_score", sum_of_rewards),
        Row("in_sequence_advantage", sum_of_advantages),
    ],
    "gae": [
        Row("verl.gae_whitened.gamma{gamma}.lam{gae_lambda}", gae, "ppo_verl", entry="advantage"),
        Row("verl.gae_returns.gamma{gamma}.lam{gae_lambda}", gae, "ppo_verl", entry="return"),
    ],
    "grpo_advantage": [
        Row("verl.grpo_advantage.std", group_advantage, "grpo_verl", advantage_eps=1e-6),
        Row("verl.grpo_advantage.mean_only", group_advantage, "dr_grpo"),
    ],
    "rloo_advantage": [
        Row("verl.rloo_advantage", group_advantage, "rloo", kl_coef=0.0),
    ],
    "reinforce_plus_plus": [
        Row("verl.reinforce_plus_plus", whitened_returns, "reinforce_plus_plus", kl_coef=0.0, gamma=1.0),
    ],
    "reinforce_plus_plus_baseline": [
        Row("verl.reinforce_plus_plus_baseline", baseline_by_parts),
        Row("verl.reinforce_plus_plus_baseline", baseline, "reinforce_plus_plus_baseline", kl_coef=0.0),
    ],
    "kl": [
        Row("verl.kl.k1", kl, estimator=k1),
        Row("verl.kl.k2", kl, estimator=k2),
        Row("verl.kl.k3", kl, estimator=k3, most=10.0),  # verl's ends at 10
    ],
}

# Of a loss, its value is compared with the key and its gradient with `<key>.grad` or `<key>.grad_value`. The clip
# of a policy is low 0.2 and high 0.28 without a dual one, unless a row says otherwise.
LOSSES = {
    "value_loss": [
        Row("verl.value_loss.clip{value_clip}.token-mean", value_loss_by_parts, loss_aggregation="tokens"),
        Row("verl.value_loss.clip{value_clip}.token-mean", value_loss, "ppo_verl"),
        Row("verl.value_loss.clip{value_clip}.seq-mean-token-mean", value_loss_by_parts, loss_aggregation="sequences"),
        Row("verl.value_loss.clip{value_clip}.seq-mean-token-sum", value_loss_by_parts, loss_aggregation="sums"),
    ],
    "surrogate": [
        Row("verl.ppo_clip.token-mean", policy_loss, "grpo_verl", loss_aggregation="tokens", kl_coef=0.0),
        Row("verl.ppo_clip.token-mean", policy_loss, "ppo_verl"),
        Row("verl.ppo_clip.token-mean", policy_loss, "dapo"),
        Row("verl.ppo_clip.seq-mean-token-mean", policy_loss, "grpo_verl", loss_aggregation="sequences", kl_coef=0.0),
        Row("verl.ppo_clip.seq-mean-token-sum", policy_loss, "grpo_verl", loss_aggregation="sums", kl_coef=0.0),
        Row("verl.ppo_clip.seq-mean-token-sum", policy_loss, "rloo"),
        Row("verl.ppo_dual_clip{dual}.token-mean", policy_loss, "grpo_verl", loss_aggregation="tokens", kl_coef=0.0),
        Row("verl.ppo_dual_clip{dual}.token-mean", policy_loss, "ppo_verl"),
        Row("verl.ppo_dual_clip{dual}.token-mean", policy_loss, "dapo"),
        Row("verl.ppo_dual_clip{dual}.seq-mean-token-mean",
            policy_loss, "grpo_verl", loss_aggregation="sequences", kl_coef=0.0),
        Row("verl.ppo_dual_clip{dual}.seq-mean-token-sum",
            policy_loss, "grpo_verl", loss_aggregation="sums", kl_coef=0.0),
        Row("verl.ppo_dual_clip{dual}.seq-mean-token-sum", policy_loss, "rloo"),
    ],
    "gspo": [
        # In the form of GSPO-token in both: advantages differ from token to token.
        Row("verl.gspo.seq-mean-token-mean", policy_loss, "gspo"),
    ],
    "cispo": [
        Row("verl.cispo.token-mean", policy_loss, "cispo", loss_aggregation="tokens"),
        Row("verl.cispo.seq-mean-token-mean", policy_loss, "cispo", loss_aggregation="sequences"),
        Row("verl.cispo.seq-mean-token-sum", policy_loss, "cispo", loss_aggregation="sums"),
    ],
    "trl_tokens": [
        # bnpo's batch is that of a device, dapo's is all: recorded from one batch, they are the same.
        Row("trl.bnpo.beta{kl_coef}.token", trl_loss, "grpo_trl"),
        Row("trl.dapo.beta{kl_coef}.token", trl_loss, "grpo_trl"),
    ],
    "trl_grpo": [
        Row("trl.grpo.beta{kl_coef}.token", trl_loss_of_all_rows, "grpo_trl", loss_aggregation="sequences"),
    ],
    "trl_sequence": [
        Row("trl.grpo.beta{beta}.sequence", trl_gspo, "gspo", advantage_eps=1e-4),
    ],
    "trl_dr_grpo": [
        Row("trl.dr_grpo.beta{kl_coef}.token", trl_dr_grpo, "dr_grpo"),
    ],
    "trl_cispo": [
        # TRL's epsilon_high is the upper bound itself, 1.2 here; it has no lower one.
        Row("trl.cispo.beta{beta}.token", trl_cispo, "cispo_trl", low=1.0, high=0.2),
    ],
    "areal": [
        Row("areal.decoupled_ppo.none", policy_loss, "grpo", high=0.2, loss_aggregation="tokens", kl_coef=0.0),
        Row("areal.decoupled_ppo.none", uncorrected, "async_grpo_areal"),
        Row("areal.decoupled_ppo.clamp{is_cap}", decoupled, "async_grpo", loss_aggregation="tokens", kl_coef=0.0),
        Row("areal.decoupled_ppo.mask{is_mask_threshold}", decoupled, "async_grpo_areal"),
    ],
}  # fmt: skip


def rows_of(table: dict[str, list[Row]], key: str) -> list[Row]:
    return [row for section in table.values() for row in section if numbers(row.key, key) is not None]


def numbers(pattern: str, key: str) -> dict[str, float] | None:
    """The numbers of a key by the names that a row has in their places; None if the key is not the row's."""
    found = {}
    for literal, name, *_ in Formatter().parse(pattern):
        if not key.startswith(literal):
            return None
        key = key.removeprefix(literal)
        if name:
            digits = key[: len(key) - len(key.lstrip("0123456789."))].rstrip(".")
            if not digits.replace(".", "", 1).isdigit():
                return None
            found[name], key = float(digits), key.removeprefix(digits)
    return None if key else found
