"""Whole runs, in this process: their ledgers reconcile, and find what was put there to be found."""

import json
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlbench.accounting.memory import tree_bytes
from rlbench.accounting.peaks import Impossible, Peak
from rlbench.checkpoint import folders, intact
from rlbench.comparing.table import show_tables
from rlbench.experiment import Experiment, run
from rlbench.learning.objectives import token_mean
from rlbench.models.likelihood import token_logp
from rlbench.types import Diverged, Status, Step
from tests.fakes import DEMO, SHELF, as_numpy


def refused(constant: str):
    raise ValueError(f"{constant} is no JSON")


def rows_of(folder) -> list[dict]:
    """metrics.jsonl, by a reader that takes no NaN."""
    return [json.loads(line, parse_constant=refused) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def ledger_of(plan, folder) -> dict:
    """That of a run, which begins anew in a folder."""
    run(plan, folder)
    return json.loads((folder / "ledger.json").read_text())


class Slow:
    """A task whose verifier sleeps over every training completion, in the manner of a sandbox that is busy."""

    def __init__(self, task, seconds):
        self.task, self.seconds, self.bounds = task, seconds, task.bounds
        self.slept = 0.0  # seconds; a thread that wakes may have to wait for one that compiles

    def problem(self, seed, split):
        problem = self.task.problem(seed, split)
        return problem._replace(state=(split, problem.state))

    def step(self, state, completion):
        split, inner = state
        if split == "train":
            began = time.perf_counter()
            time.sleep(self.seconds)
            self.slept += time.perf_counter() - began
        return self.task.step(inner, completion)._replace(cpu_seconds=0.001)

    def solution(self, state):
        return self.task.solution(state[1])


def test_the_time_to_a_target_leaves_evaluation_out(plan_of, tmp_path):
    plan = plan_of("grpo", "steps=4", "evaluation.target=0.5")

    class Rising(Slow):
        """Held-out completions are right from the second evaluation on, and an evaluation takes its time."""

        def step(self, state, completion):
            split, inner = state
            self.asked += split == "heldout"
            right = split == "train" or self.asked > 8 * (1 + 2)
            time.sleep(0.02 * (split == "heldout"))
            return Step(inner, None, float(right), Status.PASSED if right else Status.WRONG)

    task = Rising(plan.task, 0.0)
    task.asked = 0
    began = time.perf_counter()
    summary = run(plan._replace(task=task), tmp_path)
    reached = summary["time_to_target"]
    assert (reached["accuracy"], reached["step"]) == (0.5, 2)
    assert 0 < reached["compilation_seconds"] + reached["warm_start_seconds"] <= reached["seconds"]
    assert reached["seconds"] <= time.perf_counter() - began - 0.02 * 2 * 8 * (1 + 2)


def test_a_target_that_is_not_reached_has_no_time(plan_of, tmp_path):
    plan = plan_of("grpo", "steps=1", "evaluation.target=1.0", "warm_start.steps=0")
    assert run(plan, tmp_path)["time_to_target"] is None


@pytest.mark.parametrize("runner", ["sync", "async"])
def test_a_sleep_in_the_verifier_is_found_as_waiting(plan_of, tmp_path, runner):
    plan = plan_of("grpo", f"runner={runner}", "steps=8", "warm_start.steps=0")
    task = Slow(plan.task, 0.01)
    ledger, slept = ledger_of(plan._replace(task=task), tmp_path), task.slept
    assert slept >= 8 * 16 * 0.01
    waiting = ledger["time"]["devices"]["waiting_for_verification"]
    if runner == "sync":
        assert waiting == pytest.approx(slept, rel=0.1)
    else:  # the learner works in the meantime, as long as it takes
        assert 0.5 * slept < waiting < 1.1 * slept
    assert ledger["time"]["actor"]["verifying"] == pytest.approx(slept, rel=0.1)
    verification = ledger["verification"]
    assert verification["wall_seconds"] == pytest.approx(slept, rel=0.1)
    assert verification["calls"] == 8 * 16
    # What the children of a sandbox used is its word; of the sleep, next to nothing is added.
    assert 0 <= verification["cpu_seconds"] - 8 * 16 * 0.001 < 0.05 * slept


class Alternating:
    """A task that pays for every other completion, whatever it is."""

    def __init__(self, task):
        self.task, self.bounds, self.problem, self.solution = task, task.bounds, task.problem, task.solution
        self.judged = 0

    def step(self, state, completion):
        self.judged += 1
        paid = self.judged % 2 == 0
        return Step(state, None, float(paid), Status.PASSED if paid else Status.WRONG)


@pytest.mark.parametrize(("algo", "runner"), [*((algo, "sync") for algo in SHELF), *((algo, "async") for algo in DEMO)])
def test_every_algorithm_is_accounted_for_without_its_help(plan_of, tmp_path, algo, runner):
    plan = plan_of(algo, f"runner={runner}", "batch.minibatches=2", "batch.epochs=2")
    ledger = ledger_of(plan._replace(task=Alternating(plan.task)), tmp_path)
    compute = ledger["compute"]
    executed, useful = compute["executed"]["cells"], compute["useful"]
    assert set(executed) >= {"prefill", "decode", "train_forward", "train_backward", "optimizer", "evaluation"}
    networks = set(ledger["memory"]["components"])
    assert networks <= set(compute["executed"]["by_component"]) <= networks | {"shared"}
    assert compute["uncounted"] == []
    # Masks, padding and elementwise work: more is executed than is useful, but not by orders of magnitude.
    for phase in ("prefill", "decode", "train_forward", "train_backward"):
        share = useful["by_phase"][phase] / compute["executed"]["by_phase"][phase]
        assert 0.3 < share <= 1, phase
    if "score" in useful["by_phase"]:
        assert 0.3 < useful["by_phase"]["score"] / compute["executed"]["by_phase"]["score"] <= 1
    trained = executed["train_backward"]["policy"] / executed["train_forward"]["policy"]
    assert 1.5 < trained < 2.5
    assert compute["executed"]["in_flight"] == ledger["rollouts"]["in_flight"] == 0
    fates = ledger["rollouts"]["by_fate"]
    assert fates["trained"] + fates["zero_advantage"] == 48
    assert ledger["rollouts"]["generated"] == 48 + fates["filtered"]
    assert ledger["time"]["idle"] > 0


@pytest.mark.parametrize("runner", ["sync", "async"])
@pytest.mark.parametrize(("rounds", "generated", "trained"), [(1, 48, 24), (2, 96, 48), (4, 96, 48)])
def test_a_batch_is_sampled_until_it_is_full_of_what_the_algorithm_keeps(
    plan_of, tmp_path, runner, rounds, generated, trained
):
    plan = plan_of("expert_iteration", f"runner={runner}", f"batch.max_sampling_rounds={rounds}", "warm_start.steps=0")
    ledger = ledger_of(plan._replace(task=Alternating(plan.task)), tmp_path)
    fates = ledger["rollouts"]["by_fate"]
    assert (ledger["rollouts"]["generated"], fates["trained"]) == (generated, trained)
    assert fates["filtered"] == generated - trained
    assert ledger["compute"]["executed"]["by_fate"]["filtered"] > 0
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # Two batches at once are sampled for, where that may be, and the first takes all that was kept of both.
    early = runner == "async" and rounds == 1
    assert [row["kept"] for row in log if "kept" in row] == [0.5, 0.5, 0.0 if early else 0.5]
    assert json.loads((tmp_path / "summary.json").read_text())["rollouts"] == generated


def test_what_is_sampled_does_not_depend_on_the_length_of_the_run(plan_of, tmp_path):
    """A rollout's id is its place in the data stream, whatever was sampled again before."""
    said = []
    for steps in (2, 4):
        words = "warm_start.steps=0", "optimizer=sgd", f"steps={steps}", "evaluation.every=100"
        plan = plan_of("expert_iteration", *words)
        folder = tmp_path / str(steps)
        folder.mkdir()
        ledger = ledger_of(plan._replace(task=Alternating(plan.task)), folder)
        assert ledger["rollouts"]["generated"] == steps * 2 * 16, "the test wants two rounds a step"
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        names = ("step", "loss", "entropy", "completion_tokens", "grad_norm/policy", "rollouts", "tokens")
        said.append([[row[name] for name in names] for row in rows if row["step"] in (1, 2)])
    assert said[0] == said[1]


def test_a_batch_of_which_nothing_is_kept_changes_nothing(plan_of, tmp_path):
    plan = plan_of("expert_iteration", "batch.max_sampling_rounds=2", "warm_start.steps=0")
    experiment = Experiment(plan._replace(task=Slow(plan.task, 0.0)), tmp_path)  # a random network solves nothing
    experiment.go()
    start = plan.model.init(jax.random.split(jax.random.key(plan.warm_start.seed))[0])
    chex.assert_trees_all_equal(as_numpy(experiment.state.trainable["policy"]), as_numpy(start))
    experiment.finish()
    fates = json.loads((tmp_path / "ledger.json").read_text())["rollouts"]["by_fate"]
    assert fates["filtered"] == 2 * 48
    plan.verifier.close()


def test_the_critics_price_is_what_it_holds(plan_of, tmp_path):
    plan = plan_of("ppo", "algo.critic.width=32")
    ledger = ledger_of(plan, tmp_path)
    trainable, _ = plan.algorithm.init(jax.random.key(0), plan.model.init(jax.random.key(0)), None)
    critic, policy = tree_bytes(trainable["critic"]), tree_bytes(trainable["policy"])
    # float32: parameters, as much again of gradients, and Adam's two moments with a count of updates or two.
    price = ledger["memory"]["price"]["critic"]
    assert price["difference"] == pytest.approx(4 * critic, abs=32)
    assert price["with"] == pytest.approx(4 * (critic + policy), abs=64)
    assert price["with"] - price["without"] == price["difference"]
    assert "critic" not in ledger_of(plan_of("grpo"), tmp_path)["memory"]["price"]


def test_a_reference_costs_its_parameters_alone(plan_of, tmp_path):
    plan = plan_of("grpo")
    price = ledger_of(plan, tmp_path)["memory"]["price"]
    assert price["reference"]["difference"] == tree_bytes(jax.eval_shape(plan.model.init, jax.random.key(0)))


class Breaks(Slow):
    """One that loses every third completion, and takes too long over every third."""

    calls = 0

    def step(self, state, completion):
        split, _ = state
        self.calls += split == "train"
        status = (Status.INFRASTRUCTURE, Status.TIMEOUT, None)[self.calls % 3] if split == "train" else None
        step = super().step(state, completion)
        return step._replace(status=status, reward=0.0) if status else step


def test_fates_are_of_the_first_cause_and_attributes_apart(plan_of, tmp_path):
    plan = plan_of("grpo", "warm_start.steps=0", "verifier.max_failures=1")
    ledger = ledger_of(plan._replace(task=Breaks(plan.task, 0.0)), tmp_path)
    fates = ledger["rollouts"]["by_fate"]
    assert fates["infrastructure_failure"] == ledger["rollouts"]["attributes"]["timed_out"] == 16
    assert ledger["verification"]["timeouts"] == 16
    # A random network earns nothing: every group's rewards are equal.
    assert fates["zero_advantage"] == 32 and fates["trained"] == 0
    assert ledger["compute"]["executed"]["by_fate"]["infrastructure_failure"] > 0
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["rollouts/timed_out"] == 16


def test_four_devices_execute_what_one_does(plan_of, tmp_path):
    words = "batch.rollouts=32", "optimizer@warm_start.optimizer=adamw"  # whose updates are the lesser part of it
    one, four = (
        ledger_of(plan_of("grpo", *words, devices=devices), tmp_path)["compute"]["executed"]["by_phase"]
        for devices in (1, 4)
    )
    # Each updates all parameters, and adds up gradients of all of them.
    assert four.pop("optimizer") == pytest.approx(4 * one.pop("optimizer"), rel=0.02)
    assert 1 < four.pop("warm_start") / one.pop("warm_start") < 1.5
    assert {name: four[name] for name in one} == pytest.approx(one, rel=0.02)


def test_a_ledger_that_does_not_close_is_not_written(plan_of, tmp_path, monkeypatch):
    from rlbench.accounting.ledger import Totals
    from rlbench.accounting.reconcile import DoesNotReconcile

    def forgetful(self, *about):
        fates = settle(self, *about)
        self.rollouts[next(iter(fates))] -= 1
        return fates

    settle = Totals.settle
    monkeypatch.setattr(Totals, "settle", forgetful)
    with pytest.raises(DoesNotReconcile, match="rollouts: by fate and in flight, generated"):
        run(plan_of("grpo"), tmp_path)
    assert not (tmp_path / "summary.json").exists()


def test_more_than_a_tabled_peak_fails_the_run_and_is_written(plan_of, tmp_path, monkeypatch):
    monkeypatch.setattr("rlbench.parts.peak_of", lambda devices, dtype: Peak(1e3, "table: of the test"))
    with pytest.raises(Impossible):
        run(plan_of("grpo"), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "failed" and "of the peak" in summary["error"]


def test_an_algorithm_whose_score_is_broken_has_a_summary(plan_of, tmp_path):
    plan = plan_of("grpo")

    def score(*_):
        raise TypeError("of the plugin")

    with pytest.raises(TypeError, match="of the plugin"):
        run(plan._replace(algorithm=plan.algorithm._replace(score=score)), tmp_path)
    assert "of the plugin" in json.loads((tmp_path / "summary.json").read_text())["error"]


def test_a_run_without_a_step_closes_and_has_its_table(plan_of, tmp_path, capsys):
    ledger_of(plan_of("grpo", "steps=0"), tmp_path)
    show_tables([tmp_path])
    assert "what it cost" in capsys.readouterr().out


def test_every_held_out_problem_of_a_small_task_is_asked_once(plan_of, tmp_path, caplog):
    """14 sums of digits are held out, whatever the run's seed. Four devices don't divide them."""
    caplog.set_level("INFO")
    asked = []
    for seed in (0, 1):
        words = ["steps=0", f"seed={seed}", "warm_start.steps=0", "batch.rollouts=32"]
        words += ["evaluation.problems=64", "evaluation.trajectories=64"]
        run(plan_of("grpo", *words, devices=4), tmp_path)
        assert json.loads((tmp_path / "summary.json").read_text())["eval_problems"] == 14
        assert json.loads((tmp_path / "metrics.jsonl").read_text())["eval/problems"] == 14
        kept = [json.loads(line) for line in (tmp_path / "trajectories.jsonl").read_text().splitlines()]
        asked.append([row["prompt"] for row in kept])
    assert len(set(asked[0])) == 14 and asked[0] == asked[1]
    assert "evaluation.problems=64: the task has 14 distinct held-out problems; all are used" in caplog.text


def test_a_run_that_fails_in_mid_step_closes(plan_of, tmp_path):
    """Rollouts that were in flight are stale."""
    plan = plan_of("grpo", "runner=async", "runner.max_staleness=1")

    class Fails(Experiment):
        def _learned(self, ledger, event):
            if event.version == 1:
                raise RuntimeError("in mid-run")
            super()._learned(ledger, event)

    experiment = Fails(plan, tmp_path)
    with pytest.raises(RuntimeError):
        experiment.go()
    experiment.finish()
    fates = json.loads((tmp_path / "ledger.json").read_text())["rollouts"]["by_fate"]
    assert fates["stale"] in (16, 32), "the batch at hand, and one more if the actor was done with it"
    assert sum(fates.values()) - fates["stale"] == 16
    assert json.loads((tmp_path / "summary.json").read_text())["rollouts"] == sum(fates.values())
    for row in rows_of(tmp_path):
        settled = sum(count for name, count in row.items() if name.startswith("rollouts/fate/"))
        assert row["rollouts"] - settled in (0, 16, 32), "in flight"


class Unpayable(Slow):
    """Pays NaN, infinity, more than float32 holds, and a reward, in turn; on held-out problems always NaN."""

    calls = 0

    def step(self, state, completion):
        split, _ = state
        self.calls += split == "train"
        paid = (float("nan"), float("inf"), 1e300, 1.0)[self.calls % 4] if split == "train" else float("nan")
        return Step(state, None, paid, Status.PASSED)


def test_a_reward_that_is_no_number_is_the_tasks_failure(plan_of, tmp_path, caplog):
    """If nothing could be judged, accuracy is unknown: null, and warned of."""
    plan = plan_of("grpo", "warm_start.steps=0", "verifier.max_failures=1")
    summary = run(plan._replace(task=Unpayable(plan.task, 0.0)), tmp_path)
    log = rows_of(tmp_path)
    assert [row["infrastructure_failures"] for row in log[1:]] == [12] * 3
    assert [row["reward"] for row in log[1:]] == [1.0] * 3
    assert log[0]["eval/accuracy"] is log[0]["eval/pass@1"] is summary["accuracy_after"] is None
    assert summary["status"] == "finished" and summary["accuracy_before"] is None
    assert "held-out accuracy at step 0 is unknown: no completion could be judged" in caplog.messages
    kept = [json.loads(line) for line in (tmp_path / "trajectories.jsonl").read_text().splitlines()]
    assert {row["status"] for row in kept} == {"infrastructure"}
    assert all(row["detail"] == f"Unpayable paid nan for {row['completions'][-1]!r}" for row in kept)
    show_tables([tmp_path])


def test_a_step_that_diverged_is_in_the_ledger(plan_of, tmp_path):
    plan = plan_of("grpo")

    def loss(trainable, frozen, rollouts, scores):
        logp = token_logp(plan.model, trainable["policy"], rollouts)
        return token_mean(logp / 0.0, rollouts, {})

    with pytest.raises(Diverged):
        run(plan._replace(algorithm=plan.algorithm._replace(loss=loss)), tmp_path)
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    fates = ledger["rollouts"]["by_fate"]
    assert fates["trained"] + fates["zero_advantage"] == 16 and fates["stale"] == 0
    assert ledger["compute"]["executed"]["by_phase"]["train_backward"] > 0
    assert json.loads((tmp_path / "summary.json").read_text())["learner_steps"] == 0


def test_an_update_that_is_not_finite_is_skipped_and_counted(plan_of, tmp_path):
    """By choice. Parameters and optimizer are then as if there had been none; every second minibatch is sound."""

    def run_with(folder, breaks, steps):
        words = ["batch.nonfinite=skip", "batch.minibatches=2", f"steps={steps}", "warm_start.steps=0"]
        plan = plan_of("grpo", *words, "checkpoint.keep=1")

        def loss(trainable, frozen, rollouts, scores):
            logp = token_logp(plan.model, trainable["policy"], rollouts)
            bad = jnp.float32(breaks) * (rollouts.group == 0).any()
            return token_mean(logp / (1.0 - bad), rollouts, {})

        folder.mkdir()
        run(plan._replace(algorithm=plan.algorithm._replace(loss=loss)), folder)
        return rows_of(folder), intact(folders(folder / "checkpoints")[-1]).arrays()

    lines, arrays = run_with(tmp_path / "breaks", 1.0, 3)
    assert [line["skipped_updates"] for line in lines[1:]] == [1.0] * 3
    assert all(line["loss"] is None for line in lines[1:]), "the mean of a number and of none is none"
    assert all(np.isfinite(array).all() for name, array in arrays.items() if name.startswith("learner/"))
    sound, _ = run_with(tmp_path / "sound", 0.0, 1)
    assert sound[1]["skipped_updates"] == 0.0 and sound[1]["loss"] is not None


def test_a_run_that_diverges_leaves_a_good_checkpoint(plan_of, tmp_path):
    plan = plan_of("grpo", "steps=6", "checkpoint.keep=1", "checkpoint.every=1", "warm_start.steps=0")

    def score(trainable, frozen, rollouts, version):
        scores = plan.algorithm.score(trainable, frozen, rollouts, version)
        return scores | {"advantage": jnp.where(version < 3, scores["advantage"], jnp.nan)}

    with pytest.raises(Diverged):
        run(plan._replace(algorithm=plan.algorithm._replace(score=score)), tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "diverged"
    (last,) = folders(tmp_path / "checkpoints")
    arrays = intact(last).arrays()
    assert 1 <= int(last.name.removeprefix("step-")) <= 3, "one that is due while another is written waits for it"
    assert all(np.isfinite(array).all() for name, array in arrays.items() if name.startswith("learner/"))
    assert run(plan_of("grpo", "steps=6", "checkpoint.keep=1", "checkpoint.every=1", "warm_start.steps=0"), tmp_path)


def test_the_network_that_samples_has_any_name(plan_of, tmp_path):
    """The ledger of one that is called "actor" is that of the policy, under its name."""

    def under(name, tree):
        return {{"policy": name}.get(key, key): value for key, value in tree.items()}

    plan = plan_of("grpo")
    base = plan.algorithm
    renamed = base._replace(
        init=lambda *given: (lambda own, frozen: (under("actor", own), frozen))(*base.init(*given)),
        score=lambda own, frozen, *rest: base.score({"policy": own["actor"]}, frozen, *rest),
        loss=lambda own, frozen, *rest: base.loss({"policy": own["actor"]}, frozen, *rest),
        acting=lambda own, frozen: own["actor"],
    )
    usual, other = (
        ledger_of(plan._replace(algorithm=algorithm), folder)
        for algorithm, folder in ((base, made(tmp_path / "usual")), (renamed, made(tmp_path / "other")))
    )
    assert other["compute"]["executed"]["by_component"] == under("actor", usual["compute"]["executed"]["by_component"])
    assert other["compute"]["useful"]["by_component"] == under("actor", usual["compute"]["useful"]["by_component"])
    assert other["memory"]["price"] == usual["memory"]["price"]
    assert (usual["memory"]["sampling_network"], other["memory"]["sampling_network"]) == ("policy", "actor")


def test_a_mixture_that_acting_computes_is_a_network_by_itself(plan_of, tmp_path):
    plan = plan_of("grpo")

    def acting(trainable, frozen):
        return jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, frozen["reference"], trainable["policy"])

    ledger = ledger_of(plan._replace(algorithm=plan.algorithm._replace(acting=acting)), tmp_path)
    memory, compute = ledger["memory"], ledger["compute"]
    assert memory["sampling_network"] == "acting"
    assert memory["components"]["acting"] == {"parameters": memory["components"]["reference"]["parameters"]}
    assert set(memory["price"]) == {"policy", "reference"}
    assert set(compute["executed"]["cells"]["decode"]) <= {"acting", "shared"}
    assert compute["useful"]["by_phase"]["decode"] > 0


def made(folder):
    folder.mkdir()
    return folder
