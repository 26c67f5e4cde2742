"""One run, from a plan to a summary: warm start, the act-and-learn loop, evaluation."""

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .accounting.account import Account
from .accounting.flops import network_of
from .accounting.ledger import SCHEMA, Gain, Ledger
from .accounting.memory import MemoryMeter, network_bytes, prices, tree_bytes
from .accounting.peaks import Impossible, Peak, peak_of, reached
from .accounting.timeline import Activity, DeviceState, Timeline
from .acting.collector import Batch, fill
from .acting.player import Player
from .acting.slots import Sampling
from .contract.algorithm import shapes
from .contract.task import opened, training_problems
from .devices import CompiledFunction, Devices, keep_compilations, keep_freed_memory
from .evaluation import Outcomes, distinct_problems, evaluate, mean
from .interrupts import UNINTERRUPTED
from .learning.learner import Learner, UpdateConfig, expect_finite
from .learning.sft import sft
from .plan import Plan
from .randomness import key_of
from .running.schedule import stream
from .running.stalls import watched
from .tracking.files import Files
from .types import Diverged, LearnerState, Params, Phase, Rollouts, Status, Tracker, keep_all
from .warm_start import Cost, warm_start
from .warm_start_cache import cached

log = logging.getLogger(__name__)


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """Runs a plan and returns its summary, which is also in folder/summary.json, beside the ledger.

    A run that fails or is interrupted raises, after its summary is written with what was known last.

    Raises:
      DoesNotReconcile: the ledger's totals are not the sums of their parts; then no summary is written.
      Impossible: more operations a second were counted than the devices can do.
    """
    keep_compilations(plan.cache / "compilations")
    keep_freed_memory()
    with UNINTERRUPTED.installed(), contextlib.closing(plan.verifier), opened(plan.task):
        experiment = Experiment(plan, folder)
        try:
            experiment.go()
            experiment.summary["status"] = "finished"
        except BaseException as error:
            experiment.failed(error)
            raise
        finally:
            experiment.finish()
        return experiment.summary


class Experiment:
    """State of a run while it runs."""

    def __init__(self, plan: Plan, folder: Path):
        self.plan, self.folder = plan, folder
        self.trackers: list[Tracker] = [Files(folder), *plan.trackers]
        self.summary: dict[str, Any] = {
            **plan.names,
            "seed": plan.seed,
            "schema": SCHEMA,
            "status": "running",
            "accuracy_before": None,
            "accuracy_after": None,
            "time_to_target": None,
        }
        self.memory = MemoryMeter(plan.devices[0])
        self.devices = Devices(plan.devices, self.memory.observe)
        self.timeline = Timeline()
        self.created = self.began = time.perf_counter()
        self.start_compiling = self.start_seconds = 0.0  # of a warm start that is made now
        self.evaluating = self.evaluation_compiling = 0.0  # seconds
        self.learner_steps = 0
        self.asked = 0  # problems of the data stream so far: where the next one stands, of which rollout ids are made
        acting, evaluating, self.init_key = jax.random.split(key_of(plan.seed), 3)
        slow, account = plan.verifier.settings.delay_seconds, Account(self.timeline, "actor")
        self.stop = threading.Event()  # set when no more batches are wanted
        self.player = self._player(acting, plan.sampling, account, slow, self.stop)
        self.keeps = CompiledFunction(self.devices, plan.algorithm.keep, phase=Phase.SCORE, account=account)
        truncated = Sampling(plan.evaluation.top_k, plan.evaluation.top_p)
        self.evaluator = self._player(evaluating, truncated, Account(self.timeline, "learner", Activity.EVALUATING))
        self.learner = Learner(
            plan.algorithm,
            plan.optimizer,
            plan.update_config,
            self.devices,
            seed=plan.seed,
            donate=plan.runner.max_staleness == 0,
            account=Account(self.timeline, "learner"),
        )
        self.state: LearnerState
        self.ledger: Ledger | None = None
        self.over = False  # whether the budget of operations is spent
        self.buffers = 0  # bytes
        asked = plan.evaluation.problems
        self.problems = distinct_problems(plan.task, "heldout", asked)
        self.summary["eval_problems"] = have = len(self.problems)
        if have < asked:
            log.info("evaluation.problems=%d: the task has %d distinct held-out problems; all are used", asked, have)
        self.evaluations: list[Outcomes] = []  # of greedy completions, at every evaluation

    def go(self) -> None:
        """The whole run."""
        plan = self.plan
        for tracker in self.trackers:
            tracker.begin(self.folder)
        start, cost = self._warm_start()
        peak = peak_of(plan.devices, plan.model.dtype)
        self.timeline.begin()
        self.began = time.perf_counter()
        self.state = self.learner.init(self.init_key, start, shapes(plan.rollouts, plan.limits.episode))
        del start
        sampler = network_of(plan.algorithm.acting, self.state.trainable, self.state.frozen)
        self.player.network = self.evaluator.network = sampler or "acting"  # by itself, where acting computes it
        self.buffers = self._buffer_bytes()
        self.ledger = self._ledger(peak, cost)
        with watched(self.timeline, plan.runner.watchdog_seconds):
            self._report({})
            with contextlib.closing(stream(self._act, plan.steps, plan.runner.max_staleness, self.stop)) as steps:
                while not self.over and (played := self._wait(steps)):
                    self._learn(*played)
        if plan.max_flops and not self.over:
            spent = self.ledger.spent()
            log.warning("steps=%d ended the run at %.3g of max_flops=%.3g", plan.steps, spent, plan.max_flops)

    def failed(self, error: BaseException) -> None:
        """Notes what ended the run."""
        status = {KeyboardInterrupt: "interrupted", Diverged: "diverged"}.get(type(error), "failed")
        self.summary |= {"status": status, "error": f"{type(error).__name__}: {error}".rstrip(": ")}

    def finish(self) -> None:
        """Writes the summary and the ledger, whatever became of the run.

        Raises:
          DoesNotReconcile: then nothing is written.
          Impossible: after all is written.
        """
        wall, seconds = self._now()
        summary: dict[str, Any] | None = None
        report: dict[str, Any] | None = None
        try:
            if self.ledger:
                self.ledger.end()
                report = self._report_of(self.ledger, wall, seconds)
            summary = self.summary
            summary |= {
                "learner_steps": self.learner_steps,
                "rollouts": report["rollouts"]["generated"] if report else 0,
                "tokens": sum(report["tokens"]["by_kind"].values()) if report else 0,
                "wall_seconds": wall,
                "peak_memory_bytes": self.memory.peak(),
                "resident_bytes": self.memory.resident_now(),
                "sandbox": self.plan.verifier.sandbox and self.plan.verifier.sandbox.backend,
            }
            if self.ledger and report:
                self._doubt(self.ledger, report)
        finally:
            for tracker in self.trackers:
                tracker.finish(summary, report)

    def _now(self) -> tuple[float, dict[str, dict[str, float]]]:
        """Seconds since the run began, and what the timeline makes of them."""
        return time.perf_counter() - self.began, self.timeline.seconds()

    def _player(
        self,
        key: jax.Array,
        sampling: Sampling,
        account: Account,
        delay: float = 0.0,
        stop: threading.Event | None = None,
    ) -> Player:
        plan = self.plan
        return Player(
            plan.model,
            plan.task,
            plan.tokenizer,
            plan.limits,
            sampling,
            self.devices,
            key,
            plan.verifier,
            plan.acting,
            account,
            delay,
            stop,
        )

    def _warm_start(self) -> tuple[Params, Cost]:
        """The common starting weights, made now or taken from the cache, and what they cost when they were made."""
        plan, settings = self.plan, self.plan.warm_start
        key = key_of(settings.seed)

        def progress(step: int, accuracy: float | None) -> None:
            known = "unknown" if accuracy is None else f"{accuracy:.3f}"
            for tracker in self.trackers:
                tracker.note(f"warm start {step}/{settings.steps}  accuracy {known}")

        def make() -> tuple[Params, Cost]:
            devices, account = Devices(plan.devices), Account()  # of its own: they are no part of the run's
            single = UpdateConfig(1, 1, plan.update_config.microbatch_tokens)
            algorithm, optimizer = sft(plan.model), plan.warm_start_optimizer
            learner = Learner(algorithm, optimizer, single, devices, seed=settings.seed, donate=True, account=account)
            player = Player(
                *(plan.model, plan.task, plan.tokenizer, plan.limits, Sampling(), devices, key),
                *(plan.verifier, plan.acting, account),
            )
            began = time.perf_counter()
            made = warm_start(settings, plan.model, learner, player, progress)
            self.start_compiling = account.timeline.seconds()["learner"][Activity.COMPILING]
            self.start_seconds = time.perf_counter() - began - self.start_compiling
            return made

        like = jax.eval_shape(plan.model.init, key)
        folder = plan.cache / "warm_starts"
        params, cost = cached(folder, plan.warm_start_content, plan.sources, like, make)
        self.summary["warm_start"] = cost._asdict()
        return self.devices.replicate(params), cost

    def _ledger(self, peak: Peak, cost: Cost) -> Ledger:
        networks = self.state.trainable | self.state.frozen | {self.player.network: self._policy(self.state)}
        sizes = {name: size for name, params in networks.items() if (size := self.plan.model.size(params))}
        device = self.plan.devices[0]
        accelerator = device.platform != "cpu"
        ledger = Ledger(sizes, peak, self.timeline, devices=len(self.plan.devices), accelerator=accelerator)
        ledger.warmed(*map(self._named, (cost.executed_flops, cost.useful_flops)))
        return ledger

    def _policy(self, state: LearnerState) -> Params:
        """The network that samples."""
        return self.plan.algorithm.acting(state.trainable, state.frozen)

    def _named(self, flops: Mapping[str, float]) -> dict[str, float]:
        """Operations of SFT by component, the one network that was trained under the name of what samples."""
        return {self.player.network if name == "policy" else name: count for name, count in flops.items()}

    def _wait(self, steps: Any) -> tuple[Batch, float] | None:
        """The next batch; None when there is no more."""
        with self.timeline.during("learner", Activity.WAITING):
            return next(steps, None)

    def _act(self, index: int) -> tuple[Batch, float]:
        """Batch number `index`, sampled with the newest weights, and the seconds it took."""
        began = time.perf_counter()
        with self.timeline.during("actor", Activity.HOST):
            plan, state = self.plan, self.state
            policy = self._policy(state)
            group = plan.algorithm.group_size

            def play() -> tuple[Batch, np.ndarray]:
                first, self.asked = self.asked, self.asked + plan.problems
                problems = training_problems(plan.task, plan.seed, first, plan.problems)
                batch = self.player.play(policy, problems, group, first_id=first * group, version=state.version)
                kept = self._keep(batch.rollouts)
                assert self.ledger
                self.ledger.sampled(index, batch.tally(group), self.player.account.take())
                return batch, kept

            batch = fill(play, plan.max_sampling_rounds)
        return batch, time.perf_counter() - began

    def _keep(self, rollouts: Rollouts) -> np.ndarray:
        """bool[B]: which of a round's rollouts the algorithm keeps."""
        if self.plan.algorithm.keep is keep_all:
            return np.ones(len(rollouts.group), bool)
        with self.player.account.during(Activity.COMPUTING):
            return jax.device_get(self.keeps(self.devices.shard(rollouts)))

    def _learn(self, batch: Batch, act_seconds: float) -> None:
        """One learner step, reported."""
        began = time.perf_counter()
        rollouts = self.devices.shard(batch.rollouts)
        state, metrics, teaches = self.learner.spend(self.state, rollouts)
        assert self.ledger
        length, epochs = batch.rollouts.tokens.shape[1], self.plan.update_config.epochs
        self.ledger.learned(self.state.version, batch.rows, teaches, length, epochs, self.learner.account.take())
        expect_finite(state.version, metrics)
        self.over = self.plan.max_flops is not None and self.ledger.spent() >= self.plan.max_flops
        staleness = (self.state.version - batch.rollouts.version)[batch.rollouts.mask]
        self.state, self.learner_steps = state, state.version
        learn_seconds = time.perf_counter() - began
        trajectories = batch.trajectories
        valid = [t for t in trajectories if t.status != Status.INFRASTRUCTURE]
        self._report(
            {
                "reward": mean([t.reward for t in valid]),
                "accuracy": mean([t.solved for t in valid]),
                "truncated": mean([t.truncated for t in valid]),
                "completion_tokens": mean([t.completion_tokens for t in valid]),
                "entropy": mean(-batch.rollouts.logp[batch.rollouts.mask]),  # of what is trained on
                "infrastructure_failures": len(trajectories) - len(valid),
                "kept": float((batch.rows >= 0).sum()) / len(trajectories),
                "staleness_mean": mean(staleness),
                "staleness_max": int(staleness.max(initial=0)),
                **metrics,
                "act_seconds": act_seconds,
                "learn_seconds": learn_seconds,
            }
        )

    def _report(self, row: dict[str, Any]) -> None:
        """A line of metrics for the step just taken, with an evaluation where one is due."""
        assert self.ledger
        step = self.state.version
        if step % self.plan.evaluation.every == 0 or step == self.plan.steps or self.over:
            policy = self._policy(self.state)
            began, compiling = time.perf_counter(), self._compiling()
            measured = evaluate(self.plan.evaluation, self.problems, self.evaluator, policy, step)
            row |= measured.metrics
            took = time.perf_counter() - began
            self.ledger.evaluated(self.evaluator.account.take(), took)
            self.evaluating += took
            self.evaluation_compiling += self._compiling() - compiling
            self._time_to_target(step, row["eval/accuracy"])
            self.evaluations.append(measured.greedy)
            for tracker in self.trackers:
                tracker.trajectories(step, measured.trajectories)
            self.summary["accuracy_after"] = row["eval/accuracy"]
            if row["eval/accuracy"] is None:
                log.warning("held-out accuracy at step %d is unknown: no completion could be judged", step)
            if step == 0:
                self.summary["accuracy_before"] = row["eval/accuracy"]
        head = {"algo": self.plan.names["algo"], "step": step, "steps": self.plan.steps}
        wall, seconds = self._now()
        totals = self.ledger.row(wall, seconds)
        pace = {"rollouts_per_second": totals["rollouts"] / wall}
        resident = {"resident_bytes": self.memory.resident}
        row = head | row | totals | pace | resident | {"wall_seconds": wall}
        for tracker in self.trackers:
            tracker.log(row)

    def _compiling(self) -> float:
        """Seconds of the run in which its devices waited for compilation."""
        return self.timeline.seconds()["devices"][DeviceState.COMPILATION]

    def _time_to_target(self, step: int, accuracy: float | None) -> None:
        """Notes the first evaluation that reaches the target, and the seconds until then, evaluations aside."""
        target = self.plan.evaluation.target
        if self.summary["time_to_target"] is None and accuracy is not None and accuracy >= target:
            self.summary["time_to_target"] = {
                "accuracy": target,
                "step": step,
                "seconds": time.perf_counter() - self.created - self.evaluating,
                "compilation_seconds": self.start_compiling + self._compiling() - self.evaluation_compiling,
                "warm_start_seconds": self.start_seconds,  # 0 where it came from the cache
            }

    def _report_of(self, ledger: Ledger, wall: float, seconds: dict[str, dict[str, float]]) -> dict[str, Any]:
        """The ledger's report, once it reconciles. Its main numbers go into the summary."""
        gain = None
        first, last = self.summary["accuracy_before"], self.summary["accuracy_after"]
        if len(self.evaluations) > 1 and first is not None and last is not None:
            before, after = self.evaluations[0], self.evaluations[-1]
            gain = Gain(100 * (last - first), int((after.solved & before.judged & ~before.solved).sum()))
        uncounted = set[str]().union(*(account.uncounted for account in self._accounts().values()))
        report = ledger.report(wall, seconds, self._memory(), gain, sorted(uncounted))
        self.summary |= {
            "flops": report["compute"]["executed"]["total"],
            "useful_flops": report["compute"]["useful"]["total"],
            "verification_cpu_seconds": report["verification"]["cpu_seconds"],
            "idle_fraction": report["time"]["idle_fraction"],
        }
        return report

    def _doubt(self, ledger: Ledger, report: dict[str, Any]) -> None:
        """Warns of more than a measured peak.

        Raises:
          Impossible: more than a tabled one was reached. The summary says so.
        """
        try:
            if warning := reached(report["compute"]["flops_per_second"]["executed_while_busy"], ledger.peak):
                log.warning(warning)
        except Impossible as error:
            self.failed(error)
            raise

    def _accounts(self) -> dict[str, Account]:
        return {"actor": self.player.account, "learner": self.learner.account, "evaluation": self.evaluator.account}

    def _memory(self) -> dict[str, Any]:
        """The ledger's memory section, in bytes a device."""
        plan, devices = self.plan, len(self.plan.devices)
        components, sampler = network_bytes(self.state), self.player.network
        if sampler not in components:
            components[sampler] = {"parameters": tree_bytes(jax.eval_shape(self._policy, self.state))}
        return {
            "components": components,
            "sampling_network": sampler,
            "kv_cache": self.player.cache_bytes(plan.rollouts, plan.algorithm.group_size) // devices,
            "rollout_buffers": self.buffers // devices,
            "temporaries": {
                f"{name} ({who})": size
                for who, account in self._accounts().items()
                for name, size in dict(account.temporaries).items()  # a thread that was left behind may add to it
            },
            "price": prices(components, sampler),
            "device_peak": self.memory.peak(),
            "device_peak_source": self.memory.source,
            "resident_peak": self.memory.resident,
        }

    def _buffer_bytes(self) -> int:
        """Bytes of the longest rows of a batch and of their scores, on all devices together."""
        batch = shapes(self.plan.rollouts, self.plan.limits.episode)
        score = self.plan.algorithm.score
        return tree_bytes((batch, jax.eval_shape(score, self.state.trainable, self.state.frozen, batch, np.int32(0))))
