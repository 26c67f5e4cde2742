"""The command `rlbench`: a Hydra application whose errors are one line.

Exit codes: 0, 1 for a run that failed, 2 for a config or a plugin that cannot run, 130 after Ctrl-C, 143 after SIGTERM.
"""

import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from .discovery import CONFIG, find_plugins, split
from .help import explain, is_one_line, print_help
from .hydra_adapter import VERSION_BASE, HydraConfig
from .interrupts import Terminated, end_process
from .multirun import InvalidJob, JobFailed, register, shared
from .multirun.repeating import goes_on
from .records import WORDS
from .types import FAILURES

log = logging.getLogger(__name__)

FULL_ERROR = "HYDRA_FULL_ERROR"
IN_FULL = os.environ.get(FULL_ERROR) == "1"  # before main sets it
FAILED = (*FAILURES, JobFailed)  # errors of a run


def job(config: DictConfig) -> float | None:
    """One run, in the folder that Hydra chose; returns held-out accuracy, for sweepers that optimise it."""
    # Here, so that the process that only launches jobs neither waits for these nor takes hold of an accelerator.
    from .comparing.table import show_tables
    from .experiment import run
    from .plan import make_plan

    context = HydraConfig.get()
    alone = context.mode == RunMode.RUN
    names = {group: context.runtime.choices[group] for group in ("algo", "task")}
    folder = Path(context.runtime.output_dir)
    if alone and (swept := context.sweeper.get("params")):
        values = " ".join(f"{key}={value}" for key, value in swept.items())
        log.warning("one run, of the config's own values; -m sweeps %s", values)
    try:
        plan = make_plan(config, names)
        try:
            # Hydra's own copies keep the interpolations, and are written over by whoever names this folder again.
            config_text = OmegaConf.to_yaml(config, resolve=True)
            texts = {"config.yaml": config_text, WORDS: OmegaConf.to_yaml(context.overrides.task)}
            summary = run(plan, folder, texts, shared())
        except KeyboardInterrupt:
            if alone and plan.checkpoint.keep:
                command = goes_on(OmegaConf.create({"hydra": context}), folder)
                log.warning("interrupted; what goes on with it is\n    %s", command)
            raise
    except Exception as error:
        if alone and expected(error):
            fail(error)  # here, since Hydra would print a line of its own
        raise
    if alone:
        show_tables([folder])
    return summary["accuracy_after"]


def main() -> None:
    """The entry point."""
    register()
    os.environ[FULL_ERROR] = "1"  # lets errors rise to here, where they become one line
    try:
        find_plugins(sys.argv[1:])
        if {"-h", "--help"} & set(sys.argv[1:]):
            print_help([word for word in split(sys.argv[1:])[1] if not word.startswith("-")])
        else:
            hydra.main(version_base=VERSION_BASE, config_path="pkg://rlbench.conf", config_name=CONFIG)(job)()
    except KeyboardInterrupt as error:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # it is being done
        end_process(143 if isinstance(error, Terminated) else 130)
    except Exception as error:
        if not expected(error):
            raise
        fail(error)


def expected(error: Exception) -> bool:
    """True for an error that is told in one line."""
    return not IN_FULL and (isinstance(error, FAILED) or is_one_line(error))


def fail(error: Exception) -> NoReturn:
    """Ends the process with one line: exit code 1 where a run failed, 2 where its config was wrong."""
    print(f"rlbench: {' '.join(explain(error, sys.argv[1:]).split())}", file=sys.stderr)
    end_process(1 if isinstance(error, FAILED) and not isinstance(error, InvalidJob) else 2)


if __name__ == "__main__":
    main()
