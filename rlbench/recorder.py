"""The record of a run: its summary, its lines of metrics, and the trackers that take both."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .accounting.ledger import SCHEMA, Gain, Ledger
from .accounting.memory import MemoryMeter
from .accounting.timeline import DeviceState, Timeline
from .checkpoint import Stateful
from .evaluation import SUCCESS, Measured, Outcomes
from .interrupts import Terminated
from .plan import Plan
from .start import Start
from .tracking.files import Files
from .types import Diverged, Tracker

log = logging.getLogger(__name__)


def success(metrics: Mapping[str, float | None], label: str) -> dict[str, float | None]:
    """The rollouts of an evaluation that have a label, and the share of them that is solved."""
    return {"rollouts": metrics[f"eval/rollouts/{label}"], "success": metrics[f"{SUCCESS}{label}"]}


class Recorder(Stateful):
    """Writes down what a run reports.

    Args:
      eval_problems: number of held-out problems.
      saved: the state of a recorder whose record this one goes on with.
    """

    # fmt: off
    STATE = (
        "summary", "start_seconds", "evaluating", "evaluation_compiling", "evaluations", "learner_steps",
        "evaluated_step",
    )
    # fmt: on

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        timeline: Timeline,
        memory: MemoryMeter,
        eval_problems: int,
        saved: Mapping[str, Any] | None = None,
    ):
        self.plan, self.folder, self.timeline, self.memory = plan, folder, timeline, memory
        self.files = Files(folder, saved and saved["sizes"])
        self.trackers: list[Tracker] = [self.files, *plan.trackers]
        self.summary: dict[str, Any] = {
            **plan.names,
            "seed": plan.seed,
            "schema": SCHEMA,
            "status": "running",
            "accuracy_before": None,
            "accuracy_after": None,
            "time_to_target": None,
            "eval_problems": eval_problems,
        }
        self.created = self.began = time.perf_counter()
        self.start_seconds = {"compilation": 0.0, "warm_start": 0.0}  # of a warm start that is made now
        self.evaluating = self.evaluation_compiling = 0.0  # seconds
        self.evaluations: list[Outcomes] = []  # of greedy completions, at every evaluation
        self.learner_steps = 0
        self.evaluated_step = -1  # the last that was evaluated
        if saved:
            self.restore(saved)

    def state(self) -> dict[str, Any]:
        """All that the record goes on from; seconds as those that were."""
        now = time.perf_counter()
        seconds = {"began": now - self.began, "created": now - self.created}
        return super().state() | {
            "sizes": self.files.sizes(),
            "seconds": seconds,
            "timeline": self.timeline.state(),
            "memory": self.memory.state(),
        }

    def resumed(self, state: Mapping[str, Any]) -> None:
        """The run goes on, from a state of its record. Its seconds are counted on from now."""
        now, seconds = time.perf_counter(), state["seconds"]
        self.began, self.created = now - seconds["began"], now - seconds["created"]
        self.timeline.restore(state["timeline"])
        self.memory.restore(state["memory"])

    def open(self) -> None:
        """The run's folder is there."""
        for tracker in self.trackers:
            tracker.begin(self.folder)

    def note(self, text: str) -> None:
        """Something for people to read while they wait."""
        for tracker in self.trackers:
            tracker.note(text)

    def started(self, start: Start) -> None:
        """There are weights to start from. The run's seconds are counted from now on."""
        self.summary["warm_start"] = start.cost._asdict()
        self.start_seconds = {"compilation": start.compilation_seconds, "warm_start": start.seconds}
        self.timeline.begin()
        self.began = time.perf_counter()

    def evaluated(self, step: int, measured: Measured, seconds: float, compiling: float) -> None:
        """An evaluation is done, which took so many seconds, and so many of them compiling."""
        self.evaluated_step = step
        self.evaluating += seconds
        self.evaluation_compiling += compiling
        accuracy = measured.metrics["eval/accuracy"]
        self._time_to_target(step, accuracy)
        self.evaluations.append(measured.greedy)
        for tracker in self.trackers:
            tracker.trajectories(step, measured.trajectories)
        self.summary["accuracy_after"] = accuracy
        if labels := [name.removeprefix(SUCCESS) for name in measured.metrics if name.startswith(SUCCESS)]:
            self.summary["success_by_label"] = {label: success(measured.metrics, label) for label in labels}
        if accuracy is None:
            log.warning("held-out accuracy at step %d is unknown: no completion could be judged", step)
        if step == 0:
            self.summary["accuracy_before"] = accuracy

    def stepped(self, step: int, row: Mapping[str, Any], ledger: Ledger) -> None:
        """A line of metrics for the step just taken."""
        self.learner_steps = step
        wall, seconds = self.now()
        totals = ledger.row(wall, seconds)
        line = {
            **{"algo": self.plan.names["algo"], "step": step, "steps": self.plan.steps},
            **row,
            **totals,
            "rollouts_per_second": totals["rollouts"] / wall,
            "resident_bytes": self.memory.resident,
            "wall_seconds": wall,
        }
        for tracker in self.trackers:
            tracker.log(line)

    def accuracy_at(self, step: int) -> float | None:
        """Held-out accuracy after a step; None where it was not measured then."""
        accuracy: float | None = self.summary["accuracy_after"]
        return accuracy if self.evaluated_step == step else None

    def failed(self, error: BaseException) -> None:
        """Notes what ended the run."""
        statuses = {KeyboardInterrupt: "interrupted", Terminated: "interrupted", Diverged: "diverged"}
        status = statuses.get(type(error), "failed")
        self.summary |= {"status": status, "error": f"{type(error).__name__}: {error}".rstrip(": ")}

    def close(self, report: Mapping[str, Any] | None, wall: float) -> None:
        """Enters the run's totals into the summary.

        Args:
          report: of the ledger; None where the run did not come so far.
        """
        self.summary |= {
            "learner_steps": self.learner_steps,
            "rollouts": report["rollouts"]["generated"] if report else 0,
            "tokens": sum(report["tokens"]["by_kind"].values()) if report else 0,
            "wall_seconds": wall,
            "peak_memory_bytes": self.memory.peak(),
            "resident_bytes": self.memory.resident_now(),
            "sandbox": self.plan.verifier.sandbox and self.plan.verifier.sandbox.backend,
        }
        if report:
            self.summary |= {
                "flops": report["compute"]["executed"]["total"],
                "useful_flops": report["compute"]["useful"]["total"],
                "verification_cpu_seconds": report["verification"]["cpu_seconds"],
                "idle_fraction": report["time"]["idle_fraction"],
            }

    def finish(self, summary: dict[str, Any] | None, report: dict[str, Any] | None) -> None:
        """Everything is written, or nothing of what is None."""
        for tracker in self.trackers:
            tracker.finish(summary, report)

    def now(self) -> tuple[float, dict[str, dict[str, float]]]:
        """Seconds since the run began, and what the timeline makes of them."""
        return time.perf_counter() - self.began, self.timeline.seconds()

    def compiling(self) -> float:
        """Seconds of the run in which its devices waited for compilation."""
        return self.timeline.seconds()["devices"][DeviceState.COMPILATION]

    def queued(self) -> float:
        """Seconds of the run in which its devices worked for other runs of the process."""
        return self.timeline.seconds()["devices"][DeviceState.QUEUE]

    def gain(self) -> Gain | None:
        """The gain of the run so far; None where that was not measured."""
        first, last = self.summary["accuracy_before"], self.summary["accuracy_after"]
        if len(self.evaluations) < 2 or first is None or last is None:
            return None
        before, after = self.evaluations[0], self.evaluations[-1]
        return Gain(100 * (last - first), int((after.solved & before.judged & ~before.solved).sum()))

    def _time_to_target(self, step: int, accuracy: float | None) -> None:
        """Notes the first evaluation that reaches the target, and the seconds until then, evaluations aside."""
        target = self.plan.evaluation.target
        if self.summary["time_to_target"] is None and accuracy is not None and accuracy >= target:
            start = self.start_seconds
            self.summary["time_to_target"] = {
                "accuracy": target,
                "step": step,
                "seconds": time.perf_counter() - self.created - self.evaluating,
                "compilation_seconds": start["compilation"] + self.compiling() - self.evaluation_compiling,
                "warm_start_seconds": start["warm_start"],  # 0 where it came from the cache
            }
