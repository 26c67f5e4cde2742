"""The process that runs programs in Monty, a subset of Python interpreted in Rust (package `pydantic-monty`).

For kernels that cannot hold a program. Started by its path, with `python -I`, never imported; speaks the
fork server's frames. A program is text to it and to the child that it forks for each: only the interpreter, a
process of its own and fresh for each program, runs it. It is given no function of ours, no file and no environment.
Whatever a program kills, its interpreter or the child that reads its answers, is its own.
"""

import builtins
import contextlib
import fcntl
import functools
import gc
import importlib.util
import json
import keyword
import os
import re
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pydantic_monty

specification = importlib.util.spec_from_file_location("fork_server", Path(__file__).with_name("fork_server.py"))
assert specification and specification.loader
fork_server = importlib.util.module_from_spec(specification)
specification.loader.exec_module(fork_server)
codec, send = fork_server.codec, fork_server.send

UNSUPPORTED, KILLED = "unsupported", "killed"
STOPS = {3: "cpu", 4: "wall", 5: "starved", 6: UNSUPPORTED, 7: KILLED}  # what a child's exit says
EXITS: dict[str | None, int] = {stop: status for status, stop in STOPS.items()}
GRACE = 2.0  # seconds beyond a deadline in which the child has to have kept it
ENDING = threading.Lock()  # whoever of a child's threads has it says how the child ends
OVERHEAD = 1 << 30  # bytes of address space that an interpreter and a child have besides

# Values leave the interpreter by a conversion that makes a deque a list and most others their repr, and that unfolds
# what is shared. So the types are looked at inside, exactly, and no more than can be told is let out. A program that
# gets at this tells lies about its own answer, which it could have given right away.
PRELUDE = f"""
def __make():
    from collections import Counter, defaultdict
    kind_of, size = type, len
    leaves, texts = (type(None), bool, int, float, complex), (str, bytes)
    sequences, maps = (list, tuple, set, frozenset), (dict, Counter, defaultdict)
    left = 0
    def foreign(value, depth):
        nonlocal left
        kind = kind_of(value)
        left -= 1
        if kind in leaves:
            return None
        if kind in texts:
            left -= size(value)
            return None
        if depth > {codec.DEPTH} or left < 0:
            raise ValueError("nested too deep, or too large")
        if kind in sequences:
            for item in value:
                if found := foreign(item, depth + 1):
                    return found
        elif kind in maps:
            for key, item in value.items():
                if found := foreign(key, depth + 1) or foreign(item, depth + 1):
                    return found
        else:
            return kind.__name__
        return None
    def answer(value):
        nonlocal left
        left = {codec.SIZE}
        found = foreign(value, 0)
        return (found, None) if found else (None, value)
    return answer
__answer__ = __make()
"""


# ---- in the child


def child(limits: dict, request: bytes, result: int, pool: pydantic_monty.Monty, waiting: int) -> NoReturn:
    """Has an interpreter run a program, keeps its deadlines, and says what it answers."""
    stop = None
    try:
        os.setpgid(0, 0)  # or who ends the process that waits would end this one, which alone can end the interpreter
        os.dup2(result, 3, inheritable=False)
        os.dup2(0, 2)  # the interpreter's last words
        limit(limits["memory_bytes"])
        task = json.loads(request)
        inputs = [[codec.decode(tree) for tree in arguments] for arguments in task["inputs"]]
        allowed: Any = {"max_memory": limits["memory_bytes"], "max_suspensions": 100_000}
        # If this child dies, nobody else stops the interpreter.
        allowed["max_feed_duration_secs"] = limits["patience_seconds"] + GRACE
        session = pool.checkout(
            limits=allowed, assert_message_annotations=False, os_policy={"sleep_system_max": float("inf")}
        )
        with pool, session:
            assert session.worker_pid
            feed(session, PRELUDE, inputs={"__arguments__": inputs})
            send(ready=True)
            threading.Thread(target=watch, args=(session.worker_pid, limits, waiting), daemon=True).start()
            stop = perform(session, task, len(inputs))
    except BaseException as error:
        send(broken=f"{type(error).__name__}: {error}")
    finally:
        ENDING.acquire()  # unless the time is over
        os._exit(EXITS.get(stop, 0))


def limit(memory_bytes: int) -> None:
    """Sets the limits that the interpreter's own leave out; it inherits these."""
    for kind, value in (
        (resource.RLIMIT_AS, 2 * memory_bytes + OVERHEAD),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        with contextlib.suppress(OSError, ValueError):  # not every system has them all
            resource.setrlimit(kind, (value, value))


def watch(interpreter: int, limits: dict, waiting: int) -> None:
    """Ends both when their time is over, or nobody waits for them any more, whatever they are doing."""
    deadlines, process = fork_server.Deadlines(limits), None
    with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
        while True:
            time.sleep(0.01)
            process = process or psutil.Process(interpreter)  # most programs are done by now
            used = time.process_time() + sum(process.cpu_times()[:2])
            own = Path(f"/proc/{os.getpid()}")  # its first thread, not this one
            over = deadlines.over([used], [own, *Path(f"/proc/{interpreter}/task").glob("*")])
            if over or os.getppid() != waiting:
                ENDING.acquire()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(interpreter, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(interpreter, 0)  # so that its time counts
                os._exit(EXITS.get(over, 0))


def feed(session: pydantic_monty.MontySession, text: str, inputs: dict[str, Any] | None = None) -> Any:
    return session.feed_run(text, inputs=inputs, print_callback=lambda stream, text: None)


def perform(session: pydantic_monty.MontySession, task: dict, count: int) -> str | None:
    """Says what the program's function returns for every input. Returns what stopped it, if that is to be told."""
    source, entry = task["source"].removeprefix("\ufeff"), task["entry_point"]
    try:
        if not entry.isidentifier() or keyword.iskeyword(entry):
            raise KeyError(entry)
        if SURROGATE.search(source):
            send(error="no text of Monty's holds a surrogate")
            return UNSUPPORTED
        feed(session, f"{entry} = None")  # or a built-in function of that name would do
        feed(session, source)
        for number in range(count):
            foreign, value = feed(session, f"__answer__({entry}(*__arguments__[{number}]))")
            send(test=number, value=[codec.OTHER, str(foreign)[:80]] if foreign else codec.encode(value))
        send(end=count)
    except pydantic_monty.MontyCrashedError as error:
        send(error=f"the interpreter died: {error}")
        return KILLED if "SIGKILL" in str(error) and not error.timed_out else None  # a program can't send it
    except pydantic_monty.MontyError as error:
        raised = error.exception()
        if isinstance(raised, MemoryError):
            send(memory=True)
        else:
            send(error=f"{type(raised).__name__}: {raised}"[:500])
            return UNSUPPORTED if unsupported(raised) else None
    except MemoryError:
        send(memory=True)
    except Exception as error:  # an answer that is none
        send(error=f"{type(error).__name__}: {error}"[:500])
    return None


SURROGATE = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]|\\U0000[dD][89a-fA-F]")  # it would silently be another
LACKING = ("monty", "supported", "cannot create '", "object to bytes")


def unsupported(raised: BaseException) -> bool:
    """True if CPython would have had what is missing. A program may raise as if: it earns nothing by it."""
    text = str(raised)
    names = re.findall(r"'([\w.]+)'", text)
    if isinstance(raised, ImportError):
        return any(name.split(".")[0] in sys.stdlib_module_names for name in names)
    if isinstance(raised, AttributeError) and len(names) == 2:
        return names[0] in sys.stdlib_module_names or hasattr(getattr(builtins, names[0], None), names[1])
    if isinstance(raised, NameError) and names:
        return hasattr(builtins, names[0])
    return isinstance(raised, NotImplementedError | RuntimeError | TypeError) and any(word in text for word in LACKING)


# ---- in the process that waits


def run(limits: dict, requests: int, responses: int, pool: pydantic_monty.Monty) -> None:
    """Forks a child for the next program, keeps deadlines in case that it cannot, and reports."""
    began, own = time.monotonic(), time.process_time()
    last = limits["patience_seconds"] + GRACE
    late = {"cpu_seconds": limits["cpu_seconds"] + GRACE, "wall_seconds": last, "patience_seconds": last}
    request = fork_server.read_frame(requests) or b""
    reading, writing = os.pipe()
    waiting, pid = os.getpid(), os.fork()
    if pid == 0:
        child(limits, request, writing, pool, waiting)
    os.close(writing)
    deadlines = fork_server.Deadlines(late)

    def over() -> str | None:
        """A child that a program holds up is the program's doing."""
        return deadlines.over([fork_server.cpu_seconds_of(pid)], []) and "wall"

    stopped = fork_server.follow(reading, requests, responses, over, pass_on)
    os.close(reading)
    process = fork_server.reap(
        pid, limits, patient=not stopped
    )  # its time is with the interpreter's, for which it waited
    if process["exit"] < 0:
        end_interpreters()  # nobody else stops them any more
    stopped = stopped or STOPS.get(process["exit"])
    process["outside"] |= stopped == KILLED
    fork_server.report(responses, began, time.process_time() - own, stopped=stopped, program=process, judge=None)


def end_interpreters() -> None:
    """Ends what is in the session of this process besides it, if it leads one, as it does outside of bubblewrap."""
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if pid != os.getpid() and os.getsid(pid) == os.getpid():
                os.kill(pid, signal.SIGKILL)


def pass_on(pipe: int, responses: int) -> int:
    """Passes on some of what a child says, as a frame."""
    part = os.read(pipe, 1 << 16)
    if part:
        fork_server.write_frames(responses, part)
    return len(part)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    sys.set_int_max_str_digits(0)
    # Descriptor 3 will be a child's pipe; the interpreter inherits none of these.
    requests, responses = (fcntl.fcntl(standard, fcntl.F_DUPFD_CLOEXEC, 10) for standard in (0, 1))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    pool = pydantic_monty.Monty(min_processes=1, max_processes=1)  # starts nothing before a child enters it
    with contextlib.suppress(ImportError):  # where it is installed every child would load it
        importlib.import_module("opentelemetry.context").get_current()
    gc.collect()
    gc.freeze()
    greeting = {"monty": pydantic_monty.__version__}
    fork_server.serve(requests, responses, greeting, functools.partial(run, pool=pool))


if __name__ == "__main__":
    main()
