"""Sends a run's folder to Weights & Biases. What wandb shows is a function of the folder, now or years later.

Read are config.yaml, .hydra/, metrics.jsonl, trajectories.jsonl and, once the run has ended, summary.json and
ledger.json. wandb.json holds the identity of the run at wandb, so that sending again goes on behind the last step
that arrived.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..accounting.ledger import SCHEMA
from ..records import (
    MOST_METRICS,
    RECORD,
    StepRecord,
    TrajectoryRecord,
    lines_of,
    opened,
    read_config,
    read_hydra,
    read_json,
    read_ledger,
    read_row,
    read_summary,
    read_yaml,
)
from .sheets import memory, numbers, sheets

IDENTITY = "wandb.json"
TRAJECTORY = ("step", "problem", "greedy", "prompt", "completion", "status", "detail", "reward")
AXES = ("step", "rollouts", "flops", "wall_seconds", "verification/cpu_seconds")  # in every row
EXIT_CODES = {"finished": 0, "interrupted": 130}  # of a run's statuses; all others are 1
EXPERIMENT = "experiment"  # what a run is, among the others of a sweep
BREATH = 1.0  # seconds between looks at the files of a run that goes on
LONGEST_NAME, LONGEST_TAG = 128, 64  # characters that wandb takes


class Identity(NamedTuple):
    """The run at wandb that a folder is sent to."""

    id: str
    project: str
    entity: str | None
    group: str | None  # null is the sweep
    tags: list[str]  # beside algorithm, task and seed

    @classmethod
    def new(cls, project: str, entity: str | None, group: str | None, tags: list[str]) -> "Identity":
        return cls(secrets.token_hex(8), project, entity, group, tags)

    @classmethod
    def of(cls, folder: Path) -> "Identity | None":
        """That of an earlier sending."""
        return cls(**read_json(folder / IDENTITY, cls)) if os.path.lexists(folder / IDENTITY) else None

    def keep(self, folder: Path) -> None:
        draft = folder / f"{IDENTITY}.part"
        draft.write_text(json.dumps(self._asdict(), indent=2) + "\n")
        os.replace(draft, folder / IDENTITY)


class NotSent(RuntimeError):
    """wandb did not take a run; says why, in one line."""


def send(folder: Path, who: Identity, offline: bool, ends_within: Callable[[float], bool] | None = None) -> None:
    """Sends what a folder holds, of a run that has ended or, with `ends_within`, goes on.

    Args:
      ends_within: waits at most so many seconds for the end of the run, and says whether it has come.

    Raises:
      NotSent: its cause is what wandb or the disk said, if another attempt may do better.
      Unreadable: a file of the run is damaged.
    """
    if os.path.lexists(folder / "summary.json"):
        read_summary(folder)  # before anything is sent
    with begun(about(folder, who), folder, offline) as run:
        last = send_rows(run, folder, ends_within or (lambda seconds: True))
        outcome = send_end(run, folder, last)
        place = Path(run.dir).parent  # unknown afterwards
        run.finish(exit_code=outcome)
        if offline:
            check(place, outcome)


def check(place: Path, exit_code: int) -> None:
    """Reads what wandb wrote offline, since it doesn't mention that a disk was full.

    Raises:
      OSError: the last record is not that of the run's end.
    """
    words = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(place)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode or json.loads(done.stdout).get("exit_code") != exit_code:
        raise OSError(f"wandb could not write all of {place}")


def send_page(page: Path, folder: Path, who: Identity, offline: bool) -> None:
    """Sends a page as an artifact of the sweep that a run belongs to.

    Raises:
      NotSent: as in `send`.
    """
    run = about(folder, who)
    own = {name: run[name] for name in ("project", "entity", "group")}
    with begun({**own, "name": "comparison", "job_type": "comparison"}, page.absolute().parent, offline) as run:
        artifact = run_artifact("comparison", "comparison", "What the runs of a sweep cost and bought", [page])
        run.log_artifact(artifact)
        run.finish()


@contextlib.contextmanager
def begun(who: dict[str, Any], folder: Path, offline: bool) -> Iterator[Any]:
    """A run at wandb, whose process is gone afterwards; the one place where wandb's failures are caught.

    wandb watches nothing by itself there: what rlbench wrote is all there is to a run.

    Args:
      folder: wandb's own files go below it.
    """
    with at_home(folder.absolute() / "wandb"):
        import wandb
        from wandb.errors import Error, UsageError
        from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

        if offline and "id" in who:
            shutil.rmtree(folder / "wandb", ignore_errors=True)  # one run, whole
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        mode: Any = {"mode": "offline"} if offline else {"mode": "online", "resume": "allow"}
        try:
            run = wandb.init(**who, **mode, dir=str(folder), settings=settings)
            if not offline:
                refuse_older(wandb.Api(), run)
            yield run
        except UsageError as error:
            raise NotSent(one_line(error)) from None
        except (Error, OSError, TimeoutError, HandleAbandonedError, MailboxClosedError) as error:
            raise NotSent(one_line(error)) from error
        finally:
            with contextlib.suppress(Exception, SystemExit):  # its process may be dead; it exits as that one did
                wandb.teardown()


def refuse_older(api: Any, run: Any) -> None:
    """Takes a run back that has begun in a project whose first run another version of rlbench sent.

    Its metrics have other names: no panel would show both.

    Args:
      api: wandb's public one.

    Raises:
      NotSent: it was taken back.
    """
    project = f"{run.entity}/{run.project}"
    first = next(iter(api.runs(project, order="+created_at", per_page=1)), None)
    if first and "choices" in first.config and (schema := first.config.get("schema")) != SCHEMA:
        run.finish()
        api.run(f"{project}/{run.id}").delete()
        raise NotSent(f"project {project} holds runs of another version of rlbench (schema {schema}, not {SCHEMA})")


def one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextlib.contextmanager
def at_home(home: Path) -> Iterator[None]:
    """wandb's own files go to a folder, and reports about itself nowhere, unless the environment says otherwise."""
    before = dict(os.environ)
    for place in ("data", "cache", "artifact"):
        os.environ.setdefault(f"WANDB_{place.upper()}_DIR", str(home / place))
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def about(folder: Path, who: Identity) -> dict[str, Any]:
    """Identity of a run, as wandb.init takes it.

    The config is the resolved one and, under `choices`, what was chosen of every group.
    """
    config, kept = read_config(folder), read_hydra(folder)
    try:
        hydra = OmegaConf.merge(read_yaml(folder / ".hydra/config.yaml", dict[str, Any]), kept)
        group = who.group or sweep_of(hydra.hydra)
    except OmegaConfBaseException as error:
        raise NotSent(f"{folder / '.hydra'}: {one_line(error)}") from None
    chosen = kept["hydra"]["runtime"]["choices"]
    choices = {group: option for group, option in chosen.items() if not group.startswith("hydra/")}
    names = [choices["algo"], choices["task"], f"seed {config['seed']}"]
    return {
        "id": who.id,
        "project": who.project,
        "entity": who.entity,
        "group": group,
        "name": " ".join(names),
        "tags": [tag[:LONGEST_TAG] for tag in (*names, *who.tags)],
        "job_type": EXPERIMENT,
        "config": config | {"choices": choices, "schema": SCHEMA},
    }


def sweep_of(hydra: Any) -> str | None:
    """A sweep is its folder, as seen from where it was started. None for a run by itself."""
    if hydra.mode != "MULTIRUN":
        return None
    folder = Path(hydra.runtime.output_dir)
    sweep = folder.parents[len(Path(str(hydra.sweep.subdir)).parts) - 1]
    if sweep.is_relative_to(hydra.runtime.cwd):
        sweep = sweep.relative_to(hydra.runtime.cwd)
    return str(sweep)[-LONGEST_NAME:]


def send_rows(run: Any, folder: Path, ends_within: Callable[[float], bool]) -> int:
    """Sends the metrics of every step, with its trajectories. Returns the last step."""
    import wandb

    for axis in AXES:
        run.define_metric(axis)
    rows, completions = Lines(folder / "metrics.jsonl"), Lines(folder / "trajectories.jsonl")
    defined, step, over = set(AXES), -1, False
    waiting: dict[int, list[dict[str, Any]]] = {}  # trajectories, which are written before their step's row
    while not over:
        over = ends_within(BREATH)
        for row in rows.new(StepRecord):
            step = row["step"]
            for name in row.keys() - defined:
                run.define_metric(name, step_metric="step")
            defined |= row.keys()
            for completion in completions.new(TrajectoryRecord):
                waiting.setdefault(completion["step"], []).append(
                    completion | {"completion": "\n".join(completion["completions"])}
                )
            if step >= run.starting_step:  # the others arrived in an earlier attempt
                if of_step := waiting.pop(step, None):
                    cells = [[completion[name] for name in TRAJECTORY] for completion in of_step]
                    row["trajectories"] = wandb.Table(columns=list(TRAJECTORY), data=cells)
                run.log(row, step=step)
    return step


def send_end(run: Any, folder: Path, last: int) -> int:
    """Sends the outcome, the ledger and the files. Returns the run's exit code."""
    import wandb

    summary = read_summary(folder) if os.path.lexists(folder / "summary.json") else None
    ledger = read_ledger(folder) if os.path.lexists(folder / "ledger.json") else None
    run.summary.update(numbers(summary or {}, "summary") | numbers(ledger or {}, "ledger"))
    if ledger:
        run.summary.update(numbers(memory(ledger), "memory"))
    if ledger and last + 1 >= run.starting_step:
        tables = sheets(ledger)
        run.log(
            {f"ledger/{name}": wandb.Table(list(sheet.columns), sheet.rows) for name, sheet in tables.items()},
            step=last + 1,
        )
    files = [path for name in RECORD if (path := folder / name).exists()]
    run.log_artifact(run_artifact(f"run-{run.id}", "run", "The record of a run, as docs/ledger.md defines it", files))
    return EXIT_CODES.get(summary["status"], 1) if summary else 1


def run_artifact(name: str, kind: str, description: str, files: Iterable[Path]) -> Any:
    """Files that are not copied on this machine."""
    import wandb

    artifact = wandb.Artifact(name, kind, description)
    for path in files:
        artifact.add_file(str(path), policy="immutable", skip_cache=True)
    return artifact


class Lines:
    """The lines of a file of JSON that may still be written to; none where there is no file."""

    def __init__(self, path: Path):
        self._name, self._torn, self._number = path.name, b"", 0
        self._file = opened(path, MOST_METRICS) if os.path.lexists(path) else None

    def new(self, kind: Any) -> Iterator[dict[str, Any]]:
        """Those that were completed since the last call, each of which has the declared shape."""
        for piece in lines_of(self._file, self._name) if self._file else ():
            self._torn += piece
            if self._torn.endswith(b"\n"):
                text, self._torn = self._torn, b""
                yield read_row(text, self._number, self._name, kind)
                self._number += 1
