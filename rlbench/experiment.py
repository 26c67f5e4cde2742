"""One run, from a plan to a summary: warm start, the act-and-learn loop, evaluation."""

import contextlib
import signal
import time
from pathlib import Path
from typing import Any

import jax

from .accounting.memory import MemoryMeter, resident_bytes
from .acting.generate import Sampling
from .acting.rollout import Actor, Batch, training_problems
from .devices import Devices, keep_compilations, keep_freed_memory
from .evaluation import evaluate, mean
from .learning.imitation import imitation
from .learning.learner import Learner, Spending
from .plan import Plan
from .running.schedule import stream
from .tracking.files import Files
from .types import Diverged, LearnerState, Params, Status
from .warm_start import Cost, cached, warm_start


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """Runs a plan and returns its summary, which is also in folder/summary.json.

    A run that fails or is interrupted raises, after its summary is written with what was known last.
    """
    keep_compilations(plan.cache / "compilations")
    keep_freed_memory()
    experiment = Experiment(plan, folder)
    try:
        experiment.go()
        experiment.summary["status"] = "finished"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second one would cost the summary
        status = {KeyboardInterrupt: "interrupted", Diverged: "diverged"}.get(type(error), "failed")
        experiment.summary |= {"status": status, "error": f"{type(error).__name__}: {error}".rstrip(": ")}
        raise
    finally:
        experiment.finish()
    return experiment.summary


class Experiment:
    """What a run knows of itself while it runs."""

    def __init__(self, plan: Plan, folder: Path):
        self.plan = plan
        self.trackers = [Files(folder), *plan.trackers]
        self.summary: dict[str, Any] = {
            **plan.names,
            "seed": plan.seed,
            "status": "running",
            "accuracy_before": None,
            "accuracy_after": None,
        }
        self.memory = MemoryMeter(plan.devices[0])
        self.devices = Devices(plan.devices, self.memory.observe)
        self.began = time.perf_counter()
        self.learner_steps = self.rollouts = self.tokens = 0
        acting, evaluating, self.init_key = jax.random.split(jax.random.key(plan.seed), 3)
        self.actor = self._actor(acting, plan.sampling)
        self.evaluator = self._actor(evaluating, Sampling(plan.evaluation.top_k, plan.evaluation.top_p))
        self.learner = Learner(
            plan.algorithm,
            plan.optimizer,
            plan.spending,
            self.devices,
            seed=plan.seed,
            donate=plan.runner.max_staleness == 0,
        )
        self.state: LearnerState

    def go(self) -> None:
        """The whole run."""
        start = self._warm_start()
        self.began = time.perf_counter()
        self.state = self.learner.init(self.init_key, start)
        del start
        self._report({})
        steps = stream(self._act, self.plan.steps, self.plan.runner.max_staleness)
        with contextlib.closing(steps):
            for batch, seconds in steps:
                self._learn(batch, seconds)

    def finish(self) -> None:
        """Writes the summary, whatever became of the run."""
        self.summary |= {
            "learner_steps": self.learner_steps,
            "rollouts": self.rollouts,
            "tokens": self.tokens,
            "wall_seconds": time.perf_counter() - self.began,
            "peak_memory_bytes": self.memory.peak(),
            "resident_bytes": resident_bytes(),
        }
        for tracker in self.trackers:
            tracker.finish(self.summary)

    def _actor(self, key: jax.Array, sampling: Sampling) -> Actor:
        plan = self.plan
        return Actor(plan.model, plan.task, plan.tokenizer, plan.space, sampling, self.devices, key)

    def _warm_start(self) -> Params:
        """The common starting weights, made now or taken from the cache; their cost goes into the summary."""
        plan, settings = self.plan, self.plan.warm_start
        key = jax.random.key(settings.seed)

        def progress(step: int, accuracy: float) -> None:
            for tracker in self.trackers:
                tracker.note(f"warm start {step}/{settings.steps}  accuracy {accuracy:.3f}")

        def make() -> tuple[Params, Cost]:
            devices = Devices(plan.devices)  # of its own: its memory is no part of the run's
            spending = Spending(1, 1, plan.spending.microbatch_tokens)
            algorithm, optimizer = imitation(plan.model), plan.warm_start_optimizer
            learner = Learner(algorithm, optimizer, spending, devices, seed=settings.seed, donate=True)
            actor = Actor(plan.model, plan.task, plan.tokenizer, plan.space, Sampling(), devices, key)
            return warm_start(settings, plan.model, learner, actor, progress)

        like = jax.eval_shape(plan.model.init, key)
        folder = plan.cache / "warm_starts"
        params, cost = cached(folder, plan.warm_start_content, plan.sources, like, make)
        self.summary["warm_start"] = cost._asdict()
        return self.devices.replicate(params)

    def _act(self, index: int) -> tuple[Batch, float]:
        """Batch number `index`, sampled with the newest weights, and the seconds it took."""
        began = time.perf_counter()
        plan, state = self.plan, self.state
        problems = training_problems(plan.task, plan.seed, index * plan.problems, plan.problems)
        policy = plan.algorithm.acting(state.trainable, state.frozen)
        batch = self.actor.play(
            policy, problems, plan.algorithm.group_size, first_id=index * plan.rollouts, version=state.version
        )
        return batch, time.perf_counter() - began

    def _learn(self, batch: Batch, act_seconds: float) -> None:
        """One learner step, reported."""
        began = time.perf_counter()
        rollouts = self.devices.spread(batch.rollouts)
        state, metrics = self.learner.step(self.state, rollouts)
        staleness = (self.state.version - batch.rollouts.version)[batch.rollouts.mask]
        self.state, self.learner_steps = state, state.version
        learn_seconds = time.perf_counter() - began
        transcripts = batch.transcripts
        happened = [t for t in transcripts if t.status != Status.INFRASTRUCTURE]
        self.rollouts += len(transcripts)
        self.tokens += sum(t.prompt_tokens + t.reply_tokens + t.observation_tokens for t in transcripts)
        wall = time.perf_counter() - self.began
        self._report(
            {
                "reward": mean([t.reward for t in happened]),
                "accuracy": mean([t.solved for t in happened]),
                "truncated": mean([t.truncated for t in happened]),
                "reply_tokens": mean([t.reply_tokens for t in happened]),
                "entropy": -float(batch.rollouts.logp[batch.rollouts.mask].mean()) if happened else 0.0,
                "infrastructure_failures": len(transcripts) - len(happened),
                "staleness_mean": mean(staleness),
                "staleness_max": int(staleness.max(initial=0)),
                **metrics,
                "act_seconds": act_seconds,
                "learn_seconds": learn_seconds,
                "rollouts_per_second": self.rollouts / wall,
            }
        )

    def _report(self, row: dict[str, Any]) -> None:
        """A line of metrics for the step just taken, with an evaluation where one is due."""
        step = self.state.version
        if step % self.plan.evaluation.every == 0 or step == self.plan.steps:
            policy = self.plan.algorithm.acting(self.state.trainable, self.state.frozen)
            row |= evaluate(self.plan.evaluation, self.evaluator, policy, step)
            self.summary["accuracy_after"] = row["heldout/accuracy"]
            if step == 0:
                self.summary["accuracy_before"] = row["heldout/accuracy"]
        totals = {"rollouts": self.rollouts, "tokens": self.tokens}
        head = {"algo": self.plan.names["algo"], "step": step, "steps": self.plan.steps}
        row = head | totals | row | {"wall_seconds": time.perf_counter() - self.began}
        for tracker in self.trackers:
            tracker.log(row)
