"""A run in which nothing moves any more is ended, and says what each of its parts waits for."""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from ..accounting.timeline import Timeline
from ..types import Stalled

PACKAGE = Path(__file__).parents[1]
MAIN = threading.main_thread().ident or 0
GRACE = 5.0  # seconds that the main thread has to end the run in good order


@contextlib.contextmanager
def watched(timeline: Timeline, seconds: float) -> Iterator[None]:
    """A block of the main thread that is ended if none of the timeline's threads does anything new for so long.

    Raises:
      Stalled: that happened. Where the main thread does not come out of native code, the process ends with exit code 1.
    """
    watch = Watch(timeline, seconds)
    thread = threading.Thread(target=watch.work, name="watch", daemon=True)
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

    def work(self) -> None:
        """On a thread of its own."""
        while not self.over.wait(min(self.seconds / 4, 1.0)):
            if self.timeline.still() < self.seconds:
                continue
            self.stalled = f"runner.watchdog_seconds={self.seconds:g}: nothing moves any more; {self.parts()}"
            signal.pthread_kill(MAIN, signal.SIGINT)  # a signal of its own: it may wait for a lock
            if not self.over.wait(GRACE):
                print(f"rlbench: {self.stalled}", file=sys.stderr, flush=True)
                os._exit(1)
            return

    def parts(self) -> str:
        """The activity of each thread, and its place in the code."""
        frames, threads = sys._current_frames(), {thread.ident: thread.name for thread in threading.enumerate()}
        doing = {"MainThread": self.timeline.doing("learner"), "actor": self.timeline.doing("actor")}
        told = []
        for ident, name in threads.items():
            if name in doing and ident in frames:
                own = [
                    one for one in traceback.extract_stack(frames[ident]) if Path(one.filename).is_relative_to(PACKAGE)
                ]
                place = f" in {own[-1].name} ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
                told.append(f"the {'learner' if name == 'MainThread' else name} is {doing[name]}{place}")
        return ", ".join(told)
