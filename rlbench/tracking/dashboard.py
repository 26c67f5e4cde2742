"""The command `rlbench-dashboard`: builds the workspace at Weights & Biases that compares algorithms, as code.

    rlbench-dashboard --entity E --project P                   makes it, and prints where it is
    rlbench-dashboard --entity E --project P --dry-run FILE    writes its specification instead; needs no login

Every panel shows an algorithm's mean over its runs, and the range that they span.

Exit codes: 0, 1 when wandb did not take it, 2 for wrong options or where wandb-workspaces is not installed.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..accounting.timeline import DeviceState
from ..command_line import parser_of
from ..types import Fate
from .sending import EXPERIMENT
from .sheets import SHEETS

ACCURACY = "eval/accuracy"
AXES = {
    "rollouts": "rollouts",
    "flops": "floating-point operations executed",
    "wall_seconds": "wall time, seconds",
    "verification/cpu_seconds": "CPU time of verification, seconds",
    "step": "learner steps",
}
STALENESS = {  # metrics of asynchronous runs, but for the first, which all have
    "staleness_mean": ("mean age of tokens trained on", "learner steps"),
    "staleness_max": ("greatest age of tokens trained on", "learner steps"),
    "staleness_sampled_mean": ("mean age of the weights that sampled", "learner steps"),
    "behaviour/effective_sample_size": ("effective sample size", "share of a batch"),
    "behaviour/chi2": ("chi squared of the behaviour ratio", "mean of w² - 1"),
    "behaviour/ratio_above_2": ("tokens whose ratio is above 2", "share of tokens"),
    "survivorship/length": ("length of what is trained on against all", "ratio"),
    "survivorship/accuracy": ("accuracy of what is trained on against all", "ratio"),
    "queue/sampling": ("rollouts that are sampled", "rollouts"),
    "queue/judging": ("rollouts that wait for their environment", "rollouts"),
    "queue/waiting": ("rollouts that wait for their batch", "rollouts"),
    "dropped": ("rollouts that were too old", "rollouts so far"),
}
SHARED = ("kv_cache", "rollout_buffers", "temporaries")  # of the memory that is no network's
PACE = "ledger/verification/cpu_seconds_per_{}_second"  # of the two, a machine has one
MOST_RUNS = 500  # that a panel takes; wandb's own limit of 10 would leave seeds out of the bands


def main() -> None:
    """The entry point."""
    options = parser().parse_args()
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        print("rlbench-dashboard: wandb-workspaces is missing: pip install 'rlbench[dashboard]'", file=sys.stderr)
        sys.exit(2)
    board = workspace(options.entity, options.project, options.name, options.networks)
    if options.dry_run:
        options.dry_run.write_text(json.dumps(specification(board), indent=2) + "\n")
    else:
        save(board)


def parser() -> argparse.ArgumentParser:
    arguments = parser_of("rlbench-dashboard", __doc__)
    arguments.add_argument("--entity", required=True, help="user or team")
    arguments.add_argument("--project", required=True)
    arguments.add_argument("--name", default="rlbench: costs and gains", help="name of the workspace")
    networks = ["policy", "critic", "reference"]
    arguments.add_argument("--networks", nargs="+", default=networks, help="to show the memory of (%(default)s)")
    arguments.add_argument("--dry-run", type=Path, metavar="FILE", help="only write the specification, as JSON")
    return arguments


def workspace(entity: str, project: str, name: str, networks: list[str]) -> Any:
    """The workspace, as wandb-workspaces has it; nothing is sent.

    Args:
      networks: names at the top of the algorithms' `trainable` and `frozen`.
    """
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as workspaces

    compared: dict[str, Any] = {
        "groupby": panels.Config("choices.algo"),
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": "minmax",
        "max_runs_to_show": MOST_RUNS,
    }

    def line(y: str, x: str, title: str, title_y: str) -> Any:
        return panels.LinePlot(title=title, x=x, y=[y], title_x=AXES[x], title_y=title_y, **compared)

    def bars(metrics: list[str], title: str, unit: str) -> Any:
        return panels.BarPlot(title=title, metrics=list(metrics), title_x=unit, **compared)

    def table(name: str) -> Any:
        return panels.WeavePanelSummaryTable(table_name=name, layout=panels.Layout(w=24, h=12))

    sections = {
        "Accuracy against what it cost": [
            line(ACCURACY, x, f"accuracy against {unit.partition(',')[0]}", "held-out accuracy")
            for x, unit in AXES.items()
        ],
        "Memory": [
            bars([f"memory/{name}" for name in (*networks, *SHARED)], "memory by component", "bytes a device"),
            bars(["ledger/memory/device_peak"], "peak of the device", "bytes"),
        ],
        "Time": [
            bars(["ledger/time/idle_fraction"], "idle fraction of the devices", "of the wall time"),
            bars([f"seconds/{state}" for state in DeviceState], "what the devices did", "seconds"),
        ],
        "Rollouts": [
            bars([f"rollouts/fate/{fate}" for fate in Fate], "fates of rollouts", "rollouts"),
            line("rollouts/fate/zero_advantage", "rollouts", "rollouts that taught nothing", "rollouts"),
        ],
        "Staleness": [line(metric, "step", title, unit) for metric, (title, unit) in STALENESS.items()],
        "Verification": [
            bars(
                [PACE.format(kind) for kind in ("accelerator", "device")], "CPU per accelerator second", "CPU seconds"
            ),
            line("verification/cpu_seconds", "wall_seconds", "CPU time of verification", "seconds"),
        ],
        "Trajectories": [table("trajectories")],
        "Ledger": [table(f"ledger/{name}") for name in SHEETS],
    }
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[workspaces.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        settings=workspaces.WorkspaceSettings(x_axis="rollouts", max_runs=MOST_RUNS),
        runset_settings=workspaces.RunsetSettings(filters=f"Metric('JobType') == '{EXPERIMENT}'"),
    )


def specification(board: Any) -> dict[str, Any]:
    """The JSON that wandb would be sent of a workspace."""
    return board._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)


def save(board: Any) -> None:
    """Sends a workspace, or ends the process with one line that says why not."""
    import requests
    from wandb.errors import Error

    try:
        board.save()
    except (Error, OSError, ValueError, requests.RequestException) as error:
        print(f"rlbench-dashboard: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    print(board.url)


if __name__ == "__main__":
    main()
