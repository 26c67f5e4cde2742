"""The command `rlbench-wandb`: sends folders of runs to Weights & Biases, all of it or what is missing there.

    rlbench-wandb outputs/2026-11-22/13-20-06                        what its tracker could not send
    rlbench-wandb --project p multirun/2026-11-22/13-20-06           every run of a sweep, whatever its tracker was
    rlbench-wandb --page page.html multirun/2026-11-22/13-20-06      and the page that compares them

Exit codes: 0 when all were sent, 1 when some were not, 2 for wrong options.
"""

import argparse
import os
import select
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..command_line import parser_of
from ..records import Unreadable, printable
from .sending import IDENTITY, Identity, NotSent, send, send_page

SAYS, CONNECTED = "rlbench-wandb: ", "connected"
PATIENCE = 60.0  # seconds between attempts of a run that goes on


def main() -> None:
    """The entry point."""
    options = parser().parse_args()
    if options.follow:
        os.nice(10)  # training goes first
        sys.exit(0 if follow(options.folders[0], options.offline) else 1)
    folders = sorted({path.parent for folder in options.folders for path in folder.rglob("metrics.jsonl")})
    if not folders:
        print(f"rlbench-wandb: no run in {', '.join(map(str, options.folders))}", file=sys.stderr)
        sys.exit(2)
    sent = [attempt(partial(send, folder), folder, options) for folder in folders]
    if options.page:
        sent.append(attempt(partial(send_page, options.page, folders[0]), folders[0], options))
    sys.exit(0 if all(sent) else 1)


def parser() -> argparse.ArgumentParser:
    arguments = parser_of("rlbench-wandb", __doc__)
    arguments.add_argument("folders", nargs="+", type=Path, help="folders of runs or sweeps")
    arguments.add_argument("--project", help="by default that of an earlier call, or rlbench")
    arguments.add_argument("--entity", help="user or team; by default that of an earlier call, or yours")
    arguments.add_argument("--offline", action="store_true", help="only write wandb's files into the run's folder")
    arguments.add_argument("--page", type=Path, help="page that compares the runs; an artifact of their sweep")
    arguments.add_argument("--follow", action="store_true", help=argparse.SUPPRESS)  # until standard input ends
    return arguments


def attempt(sending: Callable[[Identity, bool], None], folder: Path, options: argparse.Namespace) -> bool:
    """Sends what has ended, and says what became of it."""
    try:
        who = identity(folder, options.project, options.entity)
        sending(who, options.offline)
    except (NotSent, Unreadable) as error:
        print(f"{printable(folder)}: not sent: {error}", flush=True)
        return False
    print(f"{printable(folder)}: {'written, for' if options.offline else 'sent to'} {who.project}/{who.id}", flush=True)
    return True


def identity(folder: Path, project: str | None, entity: str | None) -> Identity:
    """That of an earlier sending, unless another place is named."""
    before = Identity.of(folder)
    if before and project in (None, before.project) and entity in (None, before.entity):
        return before
    now = Identity.new(project or "rlbench", entity, before and before.group, before.tags if before else [])
    try:
        now.keep(folder)
    except OSError as error:
        raise NotSent(f"{folder / IDENTITY}: {error.strerror}") from None
    return now


def follow(folder: Path, offline: bool) -> bool:
    """Sends a run as it happens, until somebody writes to standard input or closes it; says what becomes of it."""
    who, announced, over = Identity.of(folder), False, False
    assert who

    def ends_within(seconds: float) -> bool:
        nonlocal over
        over = over or bool(select.select([sys.stdin], [], [], seconds)[0])
        return over

    def taken(seconds: float) -> bool:
        """Nobody looks for the end of the run before wandb has taken it."""
        nonlocal announced
        if not announced:
            show(CONNECTED)
        announced = True
        return ends_within(seconds)

    last = False
    while True:
        try:
            send(folder, who, offline, taken)
            return True
        except Unreadable as error:
            show(str(error))
            return False
        except NotSent as error:
            show(str(error))
            if last or error.__cause__ is None:
                return False
        last = ends_within(PATIENCE)  # then once more, whose end is waited for as long as the tracker likes


def show(text: str) -> None:
    """To whoever started this process with --follow."""
    print(f"{SAYS}{text}", flush=True)


if __name__ == "__main__":
    main()
