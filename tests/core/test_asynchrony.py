"""Asynchronous runs: what they owe to synchronous ones, to the bound on staleness, and to their own record."""

import itertools
import json
import random
import threading
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlbench.acting.episode import Episodes
from rlbench.acting.player import Play
from rlbench.experiment import Experiment
from rlbench.models.likelihood import token_logp
from rlbench.running.actor import Actor, Cycles, Weights
from rlbench.types import ConfigError, Status, Step
from tests.fakes import ACTING, VERIFIER, TwoTurns, as_numpy, player_of, problems_of, rough, small_model

TIMES = ("seconds", "resident", "verification/", "queue/", "survivorship/", "behaviour/", "_per_second", "staleness_")

TOTALS = ("rollouts", "tokens", "flops", "useful_flops")  # of a moment at which the other thread is anywhere


class Paid:
    """A task's problems; a completion is paid if it begins with an odd digit, so that random weights learn."""

    def __init__(self, task):
        self.bounds, self.problem, self.solution = task.bounds, task.problem, task.solution

    def step(self, state, completion):
        paid = completion[:1] in [*"13579"]
        return Step(state, None, float(paid), Status.PASSED if paid else Status.WRONG)


class Late(Paid):
    """Each step takes as long as chance will have it, most of them no time."""

    blocking = True

    def __init__(self, task, longest: float = 0.03):
        super().__init__(task)
        self.longest = longest

    def step(self, state, completion):
        if random.random() < 0.3:
            time.sleep(random.random() * self.longest)
        return super().step(state, completion)


@pytest.fixture
def jitter(monkeypatch):
    """Both threads stop for a moment, wherever they hand something over."""

    def late(function):
        def waits(*arguments, **named):
            time.sleep(random.random() * random.choice((0.0, 0.005, 0.02)))
            return function(*arguments, **named)

        return waits

    monkeypatch.setattr(Weights, "publish", late(Weights.publish))
    monkeypatch.setattr(Cycles, "cycle", late(Cycles.cycle))
    monkeypatch.setattr(Actor, "next", late(Actor.next))


def trained(plan, folder, task=None, watch=lambda event: None):
    """The parameters after a run, and its lines of metrics without times."""

    class Watched(Experiment):
        def _learned(self, ledger, event):
            watch(event)
            super()._learned(ledger, event)

    folder.mkdir(parents=True, exist_ok=True)
    experiment = Watched(plan._replace(task=task or Paid(plan.task)), folder)
    try:
        experiment.go()
    finally:
        experiment.finish()
        plan.verifier.close()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in line.items() if not any(t in name for t in TIMES)} for line in lines]
    assert any(line["grad_norm/policy"] > 0 for line in lines[1:]), "the test wants something to be learned"
    return as_numpy(experiment.state.trainable), kept


def words_of(**settings) -> list[str]:
    return ["warm_start.steps=0", "steps=4", *(f"runner.{name}={value}" for name, value in settings.items())]


@pytest.mark.parametrize("algo", ["grpo", "expert_iteration"])
def test_how_long_verdicts_take_changes_nothing_in_a_synchronous_run(plan_of, tmp_path, algo, jitter):
    """To the last bit. Expert iteration samples for what it does not keep, until its batch is full."""
    runs = [
        trained(plan := plan_of(algo, *words_of()), tmp_path / str(number), kind(plan.task))
        for number, kind in enumerate((Paid, Late, Late))
    ]
    for params, lines in runs[1:]:
        chex.assert_trees_all_equal(params, runs[0][0])
        assert lines == runs[0][1]


@pytest.mark.parametrize("swap", ["drained", "chunk"])
@pytest.mark.parametrize("when_stale", ["wait", "drop"])
def test_without_a_lead_an_asynchronous_run_is_the_synchronous_one(plan_of, tmp_path, swap, when_stale, jitter):
    """To the last bit, with random delays of the environment and of both threads."""
    about = words_of(max_staleness=0, swap=swap, when_stale=when_stale)
    sync, lines = trained(plan_of("expert_iteration", *words_of()), tmp_path / "sync")
    plan = plan_of("expert_iteration", "runner=async", *about)
    other, other_lines = trained(plan, tmp_path / "async", Late(plan.task))
    chex.assert_trees_all_equal(other, sync)
    assert other_lines == lines


@pytest.mark.parametrize("runner", ["async", "inflight"])
@pytest.mark.parametrize("lead", [1, 2])
def test_no_token_is_older_than_the_bound_when_it_is_trained_on(plan_of, tmp_path, runner, lead, jitter):
    """Nor is all of it fresh. Every rollout has a fate."""
    ages = []

    def watch(event):
        rollouts = event.acted.batch.rollouts
        ages.append((event.version - rollouts.version)[rollouts.mask].max(initial=0))

    words = *words_of(max_staleness=lead), "steps=8", "acting.chunk=1", "batch.rollouts=32", "acting.slots=8"
    plan = plan_of("grpo", f"runner={runner}", *words)
    trained(plan, tmp_path, Late(plan.task, 0.2), watch)
    assert 0 < max(ages) <= lead and len(ages) == 8
    rollouts = json.loads((tmp_path / "ledger.json").read_text())["rollouts"]
    assert sum(rollouts["by_fate"].values()) == rollouts["generated"] >= 8 * 32
    assert runner == "inflight" or rollouts["by_fate"]["stale"] == 0, "who waits drops nothing"


def test_those_who_take_too_long_are_dropped_and_counted(plan_of, tmp_path):
    """One step in ten takes two seconds: nobody waits for it."""

    class Stuck(Late):
        calls = itertools.count()

        def step(self, state, completion):
            if next(self.calls) % 10 == 0:
                time.sleep(2.0)
            return Paid.step(self, state, completion)

    plan = plan_of("grpo", "runner=inflight", *words_of(), "steps=6", "algo.group_size=2")
    began = time.monotonic()
    trained(plan, tmp_path, Stuck(plan.task))
    fates = json.loads((tmp_path / "ledger.json").read_text())["rollouts"]["by_fate"]
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert fates["stale"] >= last["dropped"] > 0
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("runner", ["async", "inflight", "inflight runner.recompute_cache=true"])
def test_a_run_is_repeated_from_its_record(plan_of, tmp_path, runner, jitter):
    """To the last bit, whatever the environment's delays are the second time."""
    words = [*f"runner={runner}".split(), *words_of(), "steps=6", "acting.chunk=1", "acting.slots=8"]
    plan = plan_of("grpo", *words)
    params, lines = trained(plan, tmp_path / "first", Late(plan.task, 0.1))
    for number, longest in enumerate((0.0, 0.1)):
        again = plan_of("grpo", *words, f"runner.replay={tmp_path}/first/arrivals.jsonl")
        other, other_lines = trained(again, tmp_path / str(number), Late(plan.task, longest))
        chex.assert_trees_all_equal(other, params)
        for line, other_line in zip(lines, other_lines, strict=True):
            of_the_step = {name for name in line if not name.startswith(TOTALS)}
            assert {name: other_line[name] for name in of_the_step} == {name: line[name] for name in of_the_step}


def test_a_record_is_of_use_to_its_own_run_alone(plan_of, tmp_path):
    words = "runner=async", *words_of()
    trained(plan_of("grpo", *words), tmp_path / "first")
    record = tmp_path / "first/arrivals.jsonl"
    for other, said in (
        (["seed=7"], "seed=7, not 0"),
        (["optimizer.learning_rate=0.5"], "with optimizer.learning_rate=0.5, not"),
    ):
        with pytest.raises(ConfigError, match=said):
            trained(plan_of("grpo", *words, *other, f"runner.replay={record}"), tmp_path / "other")
    short = tmp_path / "short.jsonl"
    short.write_text("".join(record.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(ConfigError, match="as long as this one"):
        trained(plan_of("grpo", *words, f"runner.replay={short}"), tmp_path / "other")
    for content in ("", "torn", "[]"):
        short.write_text(content)
        with pytest.raises(ConfigError, match="replay"):
            trained(plan_of("grpo", *words, f"runner.replay={short}"), tmp_path / "other")


def test_metrics_say_how_old_data_is_and_what_did_not_survive(plan_of, tmp_path):
    plan = plan_of("grpo", "runner=inflight", *words_of(max_staleness=2), "steps=8", "acting.chunk=1")
    _, _ = trained(plan, tmp_path, Late(plan.task, 0.1))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][1:]
    for line in lines:
        ages = [line[f"staleness/age_{age}"] for age in range(3)]
        assert sum(ages) == pytest.approx(1)
        assert line["staleness_mean"] == pytest.approx(ages[1] + 2 * ages[2])
        assert 0 < line["behaviour/effective_sample_size"] <= 1 + 1e-6 and line["behaviour/chi2"] > -1
        assert line["survivorship/length"] > 0 and line["queue/judging"] >= 0
    assert lines[0]["behaviour/effective_sample_size"] == pytest.approx(1, abs=1e-5), "fresh data"
    assert lines[0]["behaviour/ratio_max"] == pytest.approx(1, abs=1e-4)


# One player, whose weights change while it plays.


def played(devices, reread: bool, swaps: bool = True):
    """Two turns of twelve rollouts in four rows, a token at a time; from the fifth cycle on with other weights.

    Returns the rollouts, and both versions of the weights.
    """
    model = small_model()
    old, new = (rough(model.init(jax.random.key(0)), scale) for scale in (0.3, 0.6))
    player = player_of(model, TwoTurns(), devices, completion=6, acting=ACTING._replace(slots=4, chunk=1))
    episodes = Episodes(12, 1, player.limits)
    with VERIFIER.environment(player.task) as environment:
        play = Play(player, old, 0, episodes, environment, player.rows(12, 1))
        rows = play.ask(np.arange(12), problems_of(TwoTurns(), 12), first_id=0)
        for cycle in itertools.count():
            if play.idle:
                break
            if cycle == 4 and swaps:
                play.swap(new, 1)
                if reread:
                    play.reread()
            play.advance()
            play.take(wait=not play.samples.any())
    return model, episodes.rollouts(rows), (old, new)


@pytest.mark.parametrize("reread", [True, False])
def test_a_completion_may_span_two_versions_of_the_weights(devices, reread):
    """Each token's log-probability is of the weights that its version says, once the text was read again."""
    model, rollouts, weights = played(devices, reread)
    versions = [set(row[mask].tolist()) for row, mask in zip(rollouts.version, rollouts.mask, strict=True)]
    assert {0, 1} in versions and {1} in versions
    exact = [np.asarray(token_logp(model, params, jax.tree.map(jnp.asarray, rollouts))) for params in weights]
    gap = np.abs(np.where(rollouts.version == 0, *exact) - rollouts.logp)[rollouts.mask]
    if reread:
        assert gap.max() < 1e-5
    else:
        mixed = (rollouts.version == 1) & (rollouts.version.min(axis=1, keepdims=True) == 0)
        assert gap[~mixed[rollouts.mask]].max() < 1e-5, "where the cache is of one version"
        assert gap.max() > 1e-3, "a cache that mixes versions is not one forward pass"


def test_to_read_again_with_the_same_weights_changes_nothing(devices, monkeypatch):
    _, alone, _ = played(devices, reread=False, swaps=False)
    swap = Play.swap
    monkeypatch.setattr(Play, "swap", lambda self, params, version: swap(self, self.networks["policy"], 0))
    _, again, _ = played(devices, reread=True)
    np.testing.assert_array_equal(again.tokens, alone.tokens)
    np.testing.assert_allclose(again.logp, alone.logp, atol=1e-5)


def test_acting_and_learning_have_devices_of_their_own(plan_of, tmp_path):
    """With the same batches, they come to the same weights as on shared ones."""
    words = *words_of(), "batch.rollouts=32"
    shared, _ = trained(plan_of("grpo", *words, devices=2), tmp_path / "shared")
    plan = plan_of("grpo", *words, "runner.acting_devices=[0,1]", "runner.learning_devices=[2,3]", devices=4)
    places = []

    class Watched(Experiment):
        def _learned(self, ledger, event):
            super()._learned(ledger, event)
            used = [
                jax.tree.leaves(tree)[0].sharding.device_set for tree in (self.state.trainable, self.parts.player.key)
            ]
            places.append([sorted(device.id for device in devices) for devices in used])

    (tmp_path / "apart").mkdir()
    experiment = Watched(plan._replace(task=Paid(plan.task)), tmp_path / "apart")
    experiment.go()
    experiment.finish()
    plan.verifier.close()
    assert places == [[[2, 3], [0, 1]]] * 4
    chex.assert_trees_all_close(as_numpy(experiment.state.trainable), shared, atol=1e-5)


@pytest.mark.parametrize("places", ["[]", "[0,0]", "[0,4]"])
def test_devices_that_there_are_not_are_refused(plan_of, places):
    with pytest.raises(ConfigError, match=r"runner\.acting_devices"):
        plan_of("grpo", f"runner.acting_devices={places}", devices=4)


def test_weights_that_nobody_takes_are_not_kept():
    weights = Weights()
    for version in range(3):
        weights.publish(version, {"w": version})
    assert weights.look() == (2, {"w": 2}) and [*weights._versions] == [2]
    every = Weights(all_of_them=True)
    for version in range(3):
        every.publish(version, {"w": version})
    assert every.look(1) == every.look(1) == (1, {"w": 1}) and [*every._versions] == [1, 2]


def test_who_waits_for_weights_is_stopped():
    weights, stop = Weights(), threading.Event()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(RuntimeError):
        weights.wait_for(0, stop)
