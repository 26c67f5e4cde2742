"""One run, from a plan to a summary: the common start, then the act-and-learn loop, whose events are recorded."""

import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import crashes
from .accounting.ledger import Ledger
from .accounting.peaks import Impossible, reached
from .accounting.shared import Shared
from .checkpoint import Checkpoints, locked
from .contract.task import opened
from .devices import keep_compilations, keep_freed_memory
from .evaluation import distinct_problems, evaluate
from .interrupts import UNINTERRUPTED
from .learning.learner import expect_finite
from .parts import Parts
from .plan import Plan
from .recorder import Recorder
from .run_state import RunState, Saver, origin
from .running.loop import Learned, settled, train
from .running.metrics import metrics_of
from .running.stalls import watched
from .start import common_start
from .types import LearnerState

log = logging.getLogger(__name__)


def run(
    plan: Plan, folder: Path, texts: Mapping[str, str] | None = None, shared: Shared | None = None
) -> dict[str, Any]:
    """Runs a plan, or goes on with it where its folder has a checkpoint. Returns its summary.

    That is also in folder/summary.json, beside the ledger. A run that fails or is interrupted raises, after its summary
    is written with what was known last.

    Args:
      texts: of files that say what run it is, by name. They are written once the folder is known to be this run's.
      shared: with other runs of the process.

    Raises:
      ConfigError: the folder's checkpoint is of another config, or another process runs there.
      DoesNotReconcile: the ledger's totals are not the sums of their parts; then no summary is written.
      Impossible: more operations a second were counted than the devices can do.
    """
    keep_compilations(plan.cache / "compilations")
    keep_freed_memory()
    with locked(folder), UNINTERRUPTED.installed(), contextlib.closing(plan.verifier), opened(plan.task):
        experiment = Experiment(plan, folder, shared)
        for name, text in (texts or {}).items():
            (folder / name).write_text(text)
        try:
            experiment.go()
            experiment.recorder.summary["status"] = "finished"
        except BaseException as error:
            experiment.recorder.failed(error)
            raise
        finally:
            experiment.finish()
        return experiment.recorder.summary


class Experiment:
    """State of a run while it runs, and what is done when something happens."""

    def __init__(self, plan: Plan, folder: Path, shared: Shared | None = None):
        self.plan, self.folder, self.shared, self.parts = plan, folder, shared, Parts(plan, shared)
        self.room = contextlib.ExitStack()  # in memory
        asked = plan.evaluation.problems
        self.problems = distinct_problems(plan.task, "heldout", asked)
        if (have := len(self.problems)) < asked:
            log.info("evaluation.problems=%d: the task has %d distinct held-out problems; all are used", asked, have)
        checkpoints = Checkpoints(folder, plan.checkpoint.keep, origin(plan))
        self.state: LearnerState
        self.saved = RunState.newest(checkpoints, plan)
        if self.saved:  # before anything of the run is touched
            self.state = self.parts.resume(self.saved.arrays, self.saved.step)
        record = self.saved and self.saved.recorder
        crashes.enter(folder, record["sizes"]["metrics.jsonl"] if record else 0)
        self.recorder = Recorder(plan, folder, self.parts.timeline, self.parts.memory, have, record)
        self.saver = Saver(plan, self.parts, self.recorder, checkpoints)
        self.ledger: Ledger | None = None
        self.buffers = 0  # bytes

    def go(self) -> None:
        """The whole run, or what is left of it."""
        plan, parts = self.plan, self.parts
        self.recorder.open()
        saved, self.saved = self.saved, None
        ledger = self.ledger = self._resumed(saved) if saved else self._begun()
        ledger.lost = crashes.lost(self.folder)
        self.buffers = parts.buffer_bytes(self.state)
        watch = watched(parts.timeline, plan.runner.watchdog_seconds)
        acting = parts.acting(ledger, self.folder, saved and saved.actor)
        with watch, settled(), UNINTERRUPTED.graceful(), acting as actor:
            if not saved:
                self._report(ledger, {})
            del saved
            if self.shared:
                self.shared.ready(*parts.room(self.buffers))
            events = train(actor, parts.learner, self.state, parts.behaviour, parts.timeline)
            over = self._over(ledger)
            while not over and (event := next(events, None)):
                self._learned(ledger, event)
                over, stops = self._over(ledger) or self.state.version == plan.steps, UNINTERRUPTED.terminating
                self.saver.after(self.state, actor, ends=over or stops)
                if stops and not over:
                    UNINTERRUPTED.terminate()
        if plan.max_flops and not self._over(ledger):
            spent = ledger.spent()
            log.warning("steps=%d ended the run at %.3g of max_flops=%.3g", plan.steps, spent, plan.max_flops)

    def _begun(self) -> Ledger:
        """Begins the run."""
        start = common_start(self.plan, self.recorder.note, self.shared)
        self._take_room()
        self.recorder.started(start)
        self.state = self.parts.begin(start.params)
        self.parts.prepare_learner(self.state)
        return self.parts.ledger(self.state, start.cost)

    def _resumed(self, saved: RunState) -> Ledger:
        """Goes on with the run."""
        self._take_room()
        if saved.step < self.plan.steps:
            self.parts.prepare_learner(self.state)
        ledger = self.parts.ledger(self.state)
        ledger.restore(saved.actor["ledger"])
        self.saver.restore(saved.accounts)
        self.recorder.resumed(saved.recorder)
        return ledger

    def _take_room(self) -> None:
        """Waits until memory has room for the run beside the others of its process."""
        if self.shared:
            self.room.enter_context(self.shared.room())

    def finish(self) -> None:
        """Writes the summary and the ledger, whatever became of the run.

        Raises:
          DoesNotReconcile: then nothing is written.
          Impossible: after all is written.
        """
        summary: dict[str, Any] | None = None
        report: dict[str, Any] | None = None
        wall, seconds = self.recorder.now()
        try:
            if self.ledger:
                self.ledger.end()
                memory = self.parts.memory_of(self.state, self.buffers)
                report = self.ledger.report(wall, seconds, memory, self.recorder.gain(), self.parts.uncounted)
            self.recorder.close(report, wall)
            summary = self.recorder.summary
            if self.ledger and report:
                self._doubt(self.ledger, report)
        finally:
            self.room.close()
            self.saver.close()
            self.recorder.finish(summary, report)

    def _learned(self, ledger: Ledger, event: Learned) -> None:
        """Enters a learner step, and reports it."""
        batch, plan, parts = event.acted.batch, self.plan, self.parts
        room = parts.learner.room(batch.rollouts.tokens.shape[1], len(batch.ids) // len(batch.prompts))
        epochs, idle = plan.update_config.epochs, event.metrics.get("left_out")
        ledger.learned(batch.ids, event.teaches, room, epochs, parts.learner_account.take(), idle)
        ledger.evaluated(parts.behaviour.account.take(), 0.0)
        if plan.update_config.nonfinite == "stop":
            expect_finite(event.version, event.metrics)
        self.state = event.state
        own = metrics_of(event.acted, event.version, plan.runner.max_staleness)
        self._report(ledger, own | event.metrics | {"learn_seconds": event.seconds})

    def _report(self, ledger: Ledger, row: dict[str, Any]) -> None:
        """A line of metrics for the step just taken, with an evaluation where one is due."""
        step, settings, evaluator = self.state.version, self.plan.evaluation, self.parts.evaluator
        if step % settings.every == 0 or step == self.plan.steps or self._over(ledger):
            began, compiling, queued = time.perf_counter(), self.recorder.compiling(), self.recorder.queued()
            measured = evaluate(settings, self.problems, evaluator, self.parts.policy(self.state), step)
            took = time.perf_counter() - began - (self.recorder.queued() - queued)
            ledger.evaluated(evaluator.account.take(), took)
            self.recorder.evaluated(step, measured, took, self.recorder.compiling() - compiling)
            row = row | measured.metrics
        self.recorder.stepped(step, row, ledger)

    def _over(self, ledger: Ledger) -> bool:
        """True if the budget of operations is spent."""
        return self.plan.max_flops is not None and ledger.spent() >= self.plan.max_flops

    def _doubt(self, ledger: Ledger, report: dict[str, Any]) -> None:
        """Warns of more than a measured peak.

        Raises:
          Impossible: more than a tabled one was reached. The summary says so.
        """
        try:
            if warning := reached(report["compute"]["flops_per_second"]["executed_while_busy"], ledger.peak):
                log.warning(warning)
        except Impossible as error:
            self.recorder.failed(error)
            raise
