"""The sweeper that is used unless another is chosen: every combination, and a bad job fails alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ..hydra_adapter import Override, combinations, launcher_of, parse_overrides
from .repeating import reported


class GridSweeper(Sweeper):
    """The combinations of Hydra's own sweeper, but a job that cannot be composed, or fails, does so alone.

    Args:
      max_batch_size: jobs that the launcher gets at a time; None is all.
      params: values as on the command line, which go first.
    """

    def __init__(self, *, max_batch_size: int | None, params: dict[str, str] | None = None):
        self.max_batch_size, self.params = max_batch_size, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = launcher_of(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Returns what became of every job.

        Raises:
          JobFailed: of the first job that failed, once all have ended.
        """
        assert self.config and self.launcher and self.hydra_context
        overrides = parse(self.hydra_context, self.params, arguments)
        batches = combinations(overrides, self.max_batch_size)
        with reported(self.config) as returns:
            for batch in batches:
                returns += self.launcher.launch(batch, initial_job_idx=len(returns))
        return returns


def parse(context: HydraContext, params: Mapping[str, Any] | None, arguments: Sequence[str]) -> list[Override]:
    """The words of a sweep: those of its config, then those of the command line, the last of which holds."""
    return parse_overrides([*(f"{key}={value}" for key, value in (params or {}).items()), *arguments], context)
