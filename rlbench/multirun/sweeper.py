"""The sweeper that is used unless another is chosen: every combination, and a bad job fails alone."""

from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

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
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        # Words of the command line come last and go before the config's.
        overrides = parser.parse_overrides(
            [*(f"{key}={value}" for key, value in (self.params or {}).items()), *arguments]
        )
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        with reported(self.config) as returns:
            for batch in self.split_arguments(overrides, self.max_batch_size):
                returns += self.launcher.launch(batch, initial_job_idx=len(returns))
        return returns
