"""A run in which nothing moves any more is ended, and says what each of its parts waits for."""

import contextlib
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from ..accounting.timeline import Timeline
from ..interrupts import UNINTERRUPTED, thread_name
from ..types import Stalled

PACKAGE = Path(__file__).parents[1]
GRACE = 5.0  # seconds that the run's thread has to end it in good order


@contextlib.contextmanager
def watched(timeline: Timeline, seconds: float) -> Iterator[None]:
    """A block of a run's thread that is ended if none of the timeline's threads does anything new for so long.

    Raises:
      Stalled: that happened. A thread that does not come out of native code is given up; where it is the main one, the
        process ends with exit code 1.
    """
    watch = Watch(timeline, seconds)
    thread = threading.Thread(target=watch.work, args=(threading.get_ident(),), name="watch", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if watch.stalled:
            raise Stalled(watch.stalled) from None
        raise
    finally:
        watch.over.set()
        thread.join()


class Watch:
    """Looks at a timeline until the block is over."""

    def __init__(self, timeline: Timeline, seconds: float):
        self.timeline, self.seconds = timeline, seconds
        self.over = threading.Event()
        self.stalled = ""  # what is said of it

    def work(self, run: int) -> None:
        """On a thread of its own, beside that of the run."""
        while not self.over.wait(min(self.seconds / 4, 1.0)):
            if self.timeline.still() < self.seconds:
                continue
            self.stalled = f"runner.watchdog_seconds={self.seconds:g}: nothing moves any more; {self.parts(run)}"
            UNINTERRUPTED.stop(run)
            if not self.over.wait(GRACE):
                UNINTERRUPTED.give_up(run, Stalled(self.stalled))
            return

    def parts(self, run: int) -> str:
        """The activity of each thread, and its place in the code."""
        frames, threads = sys._current_frames(), {thread.ident: thread.name for thread in threading.enumerate()}
        roles = {threads.get(run, ""): "learner", thread_name("actor", threads.get(run, "")): "actor"}
        doing = []
        for ident, name in threads.items():
            if (role := roles.get(name)) and ident in frames:
                own = [
                    one for one in traceback.extract_stack(frames[ident]) if Path(one.filename).is_relative_to(PACKAGE)
                ]
                place = f" in {own[-1].name} ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
                doing.append(f"the {role} is {self.timeline.doing(role)}{place}")
        return ", ".join(doing)
