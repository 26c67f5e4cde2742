"""A process that ends this one where a call holds Python's lock: then no thread can look at a clock, nor handle Ctrl-C.

It knows no rlbench, so that it starts fast: it is run as a script. It reads one pipe: messages of this process, and
the numbers of signals, which Python writes at once even where no Python runs. And it shares some memory, by which it
knows what the call was about.
"""

import contextlib
import marshal
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

BEGIN, END, BEAT = b"\xf0", b"\xf1", b"\xf2"  # no numbers of signals
SECONDS = struct.Struct("<d")  # follows BEGIN: that one call may take
TICK = 0.25  # seconds between looks
SLACK = 1.0  # seconds beyond a call's own
HURRY = 1.25  # seconds without a sign of life, after Ctrl-C
PAGES, PAGE = 128, 1 << 18  # of the memory: one a thread that makes calls; bytes of each
SHOWN = 80  # characters of a text in a message
About = tuple[str, str]  # what a call is about: a completion, and the prompt of its problem or nothing
WORD = 8  # bytes: a page begins with the number of the call at hand, and the length of what calls are about


class Watchdog:
    """The host's end of the pipe. The process is started at first use, once for all, and ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe = -1
        self._owner = 0  # the process that started it: one that was forked needs its own
        self._process: subprocess.Popen[bytes] | None = None
        self._memory: mmap.mmap
        self._words: memoryview  # the same, as integers

    @contextlib.contextmanager
    def over(self, seconds: float) -> Iterator[None]:
        """Watches over a block in which every call may take so long."""
        self._start()
        self._send(BEGIN + SECONDS.pack(seconds))
        try:
            yield
        finally:
            self._send(END)

    def page(self, number: int, about: Sequence[About]) -> memoryview:
        """Notes what the calls of a thread are about. Returns i64[1]: which of them it makes, from 1 on; 0 is none.

        Args:
          number: of the thread.
        """
        place = number % PAGES * PAGE
        data = marshal.dumps(list(about))
        if len(data) > PAGE - 2 * WORD:
            data = b""  # then it is not known
        self._memory[place + 2 * WORD : place + 2 * WORD + len(data)] = data
        self._words[place // WORD + 1] = len(data)
        return self._words[place // WORD : place // WORD + 1]

    def watch_on(self, thread: threading.Thread, seconds: float) -> None:
        """Goes on watching, as over a block, until a thread ends that nobody waits for any more."""
        self._send(BEGIN + SECONDS.pack(seconds))  # here, not in the thread below: that one may never get the lock

        def beat() -> None:
            while thread.is_alive():
                self.beat()
                thread.join(TICK)
            self._send(END)

        threading.Thread(target=beat, name="beat", daemon=True).start()

    def beat(self) -> None:
        """Says that Python runs."""
        self._send(BEAT)

    def _send(self, message: bytes) -> None:
        try:
            os.write(self._pipe, message)
        except BlockingIOError:  # it is far behind, and would miss this
            assert self._process
            self._process.kill()
        except BrokenPipeError:
            pass  # somebody ended it

    def _start(self) -> None:
        with self._lock:
            if self._owner != os.getpid():
                theirs, self._pipe = os.pipe()
                os.set_blocking(self._pipe, False)
                with tempfile.TemporaryFile() as shared:
                    shared.truncate(PAGES * PAGE)
                    self._memory = mmap.mmap(shared.fileno(), PAGES * PAGE)
                    self._words = memoryview(self._memory).cast("q")
                    self._process = self._spawned(theirs, shared.fileno())
                os.close(theirs)
                self._owner = os.getpid()
        if threading.current_thread() is threading.main_thread():
            before = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
            if before not in (-1, self._pipe):
                signal.set_wakeup_fd(before, warn_on_full_buffer=False)  # somebody else needs it

    @staticmethod
    def _spawned(pipe: int, memory: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(memory)],
            stdin=pipe,
            stdout=subprocess.DEVNULL,
            pass_fds=[memory],
            cwd="/",
            start_new_session=True,  # Ctrl-C is not meant for it
        )


WATCHDOG = Watchdog()


def watch(pipe: int, host: int, memory: mmap.mmap) -> None:
    """Ends the host if it gives no sign of life for longer than a call may take, or for HURRY after Ctrl-C."""
    limits: list[float] = []  # of the blocks that it is in
    hurried, silent, last = False, 0.0, time.monotonic()
    while True:
        alive = bool(select.select([pipe], [], [], TICK)[0])
        if alive:
            data = os.read(pipe, 1 << 16)
            if not data:
                return
            hurried, alive = parse(data, limits, hurried)
        now = time.monotonic()
        # Of a time in which this process was stopped, too, one tick counts.
        silent = 0.0 if alive or not limits or stopped(host) else silent + min(now - last, 2 * TICK)
        last = now
        if limits and silent > (HURRY if hurried else max(limits) + SLACK):
            why = "Ctrl-C came" if hurried else f"verifier.step_seconds={max(limits):g}"
            what = f"a step of the task has held Python's lock for {silent:.1f} s ({why})"
            print(f"rlbench: {what}, and the run was ended: {about(memory)}", file=sys.stderr, flush=True)
            os.kill(host, signal.SIGKILL)
            return


def described(completion: str, prompt: str) -> str:
    """A completion, and the problem that it is of, for messages."""
    completion = f"completion {completion[:SHOWN]!r}"
    return f"problem {prompt[-SHOWN:]!r}, {completion}" if prompt else completion


def about(memory: mmap.mmap) -> str:
    """Subjects of the calls at hand, of which one holds the lock."""
    found = []
    for place in range(0, PAGES * PAGE, PAGE):
        number, size = struct.unpack_from("qq", memory, place)
        if number:
            start = place + 2 * WORD
            subjects = marshal.loads(memory[start : start + size]) if size else ()
            found.append(described(*subjects[number - 1]) if subjects else f"call {number}")
    return " or ".join(found)


def parse(data: bytes, limits: list[float], hurried: bool) -> tuple[bool, bool]:
    """Enters messages. Returns whether Ctrl-C came in a block that is open, and whether one is a sign of life."""
    place, alive = 0, False
    while place < len(data):
        message = data[place : place + 1]
        place += 1
        if message == BEGIN:
            limits.append(SECONDS.unpack_from(data, place)[0])
            place += SECONDS.size
        elif message == END and limits:
            limits.pop()
        elif message[0] == signal.SIGINT and limits:
            hurried = True
        alive |= message in (BEGIN, END, BEAT)
    return hurried and bool(limits), alive


def stopped(host: int) -> bool:
    """True if a process is stopped, as by Ctrl-Z."""
    try:
        with open(f"/proc/{host}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:
        return False


if __name__ == "__main__":
    watch(0, int(sys.argv[1]), mmap.mmap(int(sys.argv[2]), 0, access=mmap.ACCESS_READ))
