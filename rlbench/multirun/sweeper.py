"""The sweeper that is used unless another is chosen: every combination, and a bad job fails alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.types import HydraContext

from .repeating import reported

Plugins.instance()
# Hydra executes the modules of its own plugins when it looks for them: a class imported earlier would be another.
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # noqa: E402


class PatientSweeper(BasicSweeper):
    """Hydra's own sweeper, but a job that cannot be composed, or fails, does so alone."""

    def sweep(self, arguments: list[str]) -> Any:
        """Returns what became of every job.

        Raises:
          JobFailed: of the first job that failed, once all have ended.
        """
        assert self.config and self.launcher and self.hydra_context
        overrides = parse(self.hydra_context, self.params, arguments)
        batches = self.split_arguments(overrides, self.max_batch_size)
        with reported(self.config) as returns:
            for batch in batches:
                returns += self.launcher.launch(batch, initial_job_idx=len(returns))
        return returns


def parse(context: HydraContext, params: Mapping[str, Any] | None, arguments: Sequence[str]) -> list[Override]:
    """The words of a sweep: those of its config, then those of the command line, the last of which holds."""
    parser = OverridesParser.create(config_loader=context.config_loader)
    return parser.parse_overrides([*(f"{key}={value}" for key, value in (params or {}).items()), *arguments])
