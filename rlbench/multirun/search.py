"""The sweeper that searches for good settings, by Optuna: asks it for some, runs them, and tells it how they did."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ..comparing.objective import measure
from ..hydra_adapter import IntervalSweep, JobReturn, JobStatus, Override, RangeSweep, launcher_of
from ..plugins import typed_section
from ..records import Unreadable
from ..types import ConfigError, Count
from .job import library
from .repeating import repeats, reported
from .sweeper import parse

log = logging.getLogger(__name__)


class Settings(NamedTuple):
    """Settings of a search."""

    objective: str  # as in comparing.objective.measure
    direction: Literal["maximize", "minimize"]
    n_trials: Count
    n_jobs: Count  # trials at a time
    seeds: list[int] | None  # of the runs of a trial; None is one run


class Trial(NamedTuple):
    """Settings that were tried."""

    settings: list[str]
    value: float | None  # the mean of its runs; None where one has none
    runs: list[str]  # their folders


class OptunaSweeper(Sweeper):
    """A search over the values on the command line, in Hydra's words.

    Args:
      sampler: config of one of optuna.samplers.
      params: values as on the command line, which go first.
    """

    def __init__(self, *, sampler: DictConfig, params: dict[str, str] | None, **settings: Any):
        self.sampler, self.params, self._settings = sampler, params, settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.optuna = library("optuna", "hydra/sweeper")
        self.settings: Settings = typed_section(Settings, OmegaConf.create(self._settings), "hydra.sweeper")
        self.hydra_context, self.config = hydra_context, config
        self.launcher = launcher_of(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Returns all trials.

        Raises:
          ConfigError: there is nothing to search, or nothing that the objective names.
          JobFailed: of the first job that failed, once the search is over.
        """
        assert self.config and self.hydra_context
        words = parse(self.hydra_context, self.params, arguments)
        overrides = {override.get_key_element(): override for override in words}
        space = {key: override for key, override in overrides.items() if override.is_sweep_override()}
        fixed = [f"{key}={o.get_value_element_as_str()}" for key, o in overrides.items() if key not in space]
        if "seed" in space:
            seeds = (space["seed"].input_line or "").partition("=")[2]
            raise ConfigError("seed", seeds, f"hydra.sweeper.seeds=[{seeds}] takes the mean over seeds")
        if not space:
            raise ConfigError(
                "hydra/sweeper", "optuna", "nothing to search: give a key values, as in key=interval(0,1)"
            )
        distributions = {key: self.distribution(override) for key, override in space.items()}
        with reported(self.config) as returns:
            trials = self._search(distributions, fixed, returns)
            self._conclude(trials, fixed, Path(self.config.hydra.sweep.dir))
        return trials

    def _search(self, space: dict[str, Any], fixed: Sequence[str], returns: list[JobReturn]) -> list[Trial]:
        """Asks and tells until all settings are tried."""
        assert self.launcher
        optuna, settings = self.optuna, self.settings
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction=settings.direction, sampler=instantiate(self.sampler))
        seeds = [[f"seed={seed}"] for seed in settings.seeds] if settings.seeds else [[]]
        trials: list[Trial] = []
        while len(trials) < settings.n_trials:
            asked = [study.ask(space) for _ in range(min(settings.n_jobs, settings.n_trials - len(trials)))]
            chosen = [[f"{key}={value}" for key, value in one.params.items()] for one in asked]
            jobs = [[*fixed, *words, *seed] for words in chosen for seed in seeds]
            results = self.launcher.launch(jobs, initial_job_idx=len(returns))
            returns += results
            for place, (one, words) in enumerate(zip(asked, chosen, strict=True)):
                runs = results[place * len(seeds) : (place + 1) * len(seeds)]
                value = self._value(runs)
                study.tell(one, value, state=None if value is not None else optuna.trial.TrialState.FAIL)
                trials.append(Trial(words, value, [str(run.working_dir) for run in runs]))
                log.info("trial %d: %s: %s %s", len(trials), " ".join(words), settings.objective, value)
        return trials

    def _value(self, runs: Sequence[JobReturn]) -> float | None:
        """The mean of the runs of a trial; None where one of them has no value."""
        if any(run.status == JobStatus.FAILED for run in runs):
            return None
        try:
            values = [measure(Path(str(run.working_dir)), self.settings.objective) for run in runs]
        except Unreadable as error:
            log.warning("a trial without a value: %s: %s", runs[0].working_dir, error)
            return None
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    def _conclude(self, trials: Sequence[Trial], fixed: Sequence[str], folder: Path) -> None:
        """Says what was best and how to run it; leaves that, and all trials, in the sweep's folder."""
        objective, known = self.settings.objective, [trial for trial in trials if trial.value is not None]
        best = None
        if known:
            choose = max if self.settings.direction == "maximize" else min
            found = choose(known, key=lambda trial: trial.value or 0.0)
            before = next((int(word.partition("=")[2]) for word in fixed if word.startswith("trials=")), 0)
            kept = [word for word in fixed if not word.startswith("trials=")]
            assert self.config
            command = repeats([*kept, *found.settings, f"trials={before + len(known)}"], self.config)
            best = {"settings": found.settings, objective: found.value, "command": command}
            log.info("best of %d: %s %g\n    %s", len(known), objective, found.value, command)
        else:
            log.warning("none of %d trials has a value of %s", len(trials), objective)
        rows = [{"settings": trial.settings, objective: trial.value, "runs": trial.runs} for trial in trials]
        content = {"objective": objective, "direction": self.settings.direction, "best": best, "trials": rows}
        (folder / "search.json").write_text(json.dumps(content, indent=2) + "\n")

    def distribution(self, override: Override) -> Any:
        """Optuna's distribution of one key's values.

        Raises:
          ConfigError: there are no such values: their range ends before it starts, or has no logarithm.
        """
        try:
            return self._distribution(override)
        except ValueError as error:
            raise ConfigError(override.get_key_element(), override.get_value_string(), str(error)) from None

    def _distribution(self, override: Override) -> Any:
        kinds, value = self.optuna.distributions, override.value()
        if isinstance(value, IntervalSweep):
            log_scale, low, high = "log" in value.tags, value.start, value.end
            assert low is not None and high is not None
            if "int" in value.tags or isinstance(low, int):
                return kinds.IntDistribution(int(low), int(high), log=log_scale)
            return kinds.FloatDistribution(low, high, log=log_scale)
        if isinstance(value, RangeSweep):
            start, stop, step = value.start, value.stop, value.step
            assert start is not None and stop is not None
            last = start + (math.ceil((stop - start) / step) - 1) * step
            if all(isinstance(number, int) for number in (start, stop, step)):
                return kinds.IntDistribution(start, last, step=step)
            return kinds.FloatDistribution(start, last, step=step)
        return kinds.CategoricalDistribution(tuple(override.sweep_string_iterator()))
