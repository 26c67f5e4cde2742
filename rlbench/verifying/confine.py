"""Limits of what a sandboxed program may ask of the kernel: resources, Landlock, and a seccomp allowlist.

Standard library only: the sandbox loads this file by its path. Nothing here needs root. Sources:
seccomp(2), landlock(7), capabilities(7); numbers of Linux's uapi headers (asm/unistd.h of each machine).
"""

import ctypes
import fcntl
import os
import platform
import resource
import struct

libc = ctypes.CDLL(None, use_errno=True)

# ---- seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
DENY, PRETEND = 0x00050000 | 1, 0x00050000  # answer EPERM, and success
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32 = 0x40000000  # numbers from here on are the x32 interface of x86_64

# What Python needs once it runs, and nothing that opens, connects, starts, signals or looks about.
NUMBERS = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
        "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "select": 23, "sched_yield": 24,
        "getcwd": 79, "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39, "exit": 60, "kill": 62, "uname": 63,
        "gettimeofday": 96, "getrusage": 98, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107,
        "getegid": 108, "getppid": 110, "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202,
        "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231,
        "tgkill": 234, "pselect6": 270, "ppoll": 271, "set_robust_list": 273, "prlimit64": 302, "getrandom": 318,
        "rseq": 334,
    },
    "aarch64": {
        "read": 63, "write": 64, "close": 57, "fstat": 80, "lseek": 62, "mmap": 222, "mprotect": 226, "munmap": 215,
        "brk": 214, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "sched_yield": 124,
        "mremap": 216, "madvise": 233, "nanosleep": 101, "getpid": 172, "exit": 93, "kill": 129, "uname": 160,
        "getcwd": 17,
        "gettimeofday": 169, "getrusage": 165, "times": 153, "getuid": 174, "getgid": 176, "geteuid": 175,
        "getegid": 177, "getppid": 173, "sigaltstack": 132, "gettid": 178, "futex": 98, "restart_syscall": 128,
        "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115, "exit_group": 94, "tgkill": 131,
        "pselect6": 72, "ppoll": 73, "set_robust_list": 99, "prlimit64": 261, "getrandom": 278, "rseq": 293,
    },
}  # fmt: skip

PROT_EXEC, SIGKILL = 4, 9
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of classic BPF


def allowlist(machine: str, pid: int) -> list[tuple[int, int, int, int]]:
    """The filter as instructions of classic BPF (code, jump if true, jump if false, constant).

    Args:
      machine: as platform.machine() names it.
      pid: the only process that may be signalled, though not with SIGKILL.

    Raises:
      KeyError: no filter is known for the machine.
    """
    numbers = dict(NUMBERS[machine])

    def argument(index: int, half: int = 0) -> tuple[int, int, int, int]:
        return LOAD, 0, 0, 16 + 8 * index + 4 * half  # of struct seccomp_data, in a little-endian machine's order

    program = [
        (LOAD, 0, 0, 4),
        (EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),
        (AT_LEAST, 0, 1, X32 if machine == "x86_64" else 0xFFFFFFFF),
        (RETURN, 0, 0, KILL),
    ]
    deny, allow = (RETURN, 0, 0, DENY), (RETURN, 0, 0, ALLOW)
    # Who dies of SIGKILL was killed by somebody else: a program cannot look as if.
    kill, tgkill = (
        [argument(0), (EQUAL, 1, 0, pid), deny, argument(signal), (EQUAL, 0, 1, SIGKILL), deny, allow]
        for signal in (1, 2)
    )
    executable = [argument(2), (ANY_BIT, 0, 1, PROT_EXEC), deny, allow]
    # A look at one's own limits: pid 0, and no new limit, whose pointer has two halves.
    limits = [argument(0), (EQUAL, 1, 0, 0), deny, argument(2), (EQUAL, 1, 0, 0), deny]
    limits += [argument(2, 1), (EQUAL, 1, 0, 0), deny, allow]
    clocks = [argument(0), (AT_LEAST, 0, 1, 16), deny, allow]  # numbers from there on are other processes' clocks
    conditions = {
        "clock_gettime": clocks, "clock_getres": clocks, "clock_nanosleep": clocks,
        "mmap": executable, "mprotect": executable, "prlimit64": limits, "kill": kill, "tgkill": tgkill,
        "sched_yield": [(RETURN, 0, 0, PRETEND)],  # or a program could look as if others kept it from running
    }  # fmt: skip
    for name, body in conditions.items():
        program += [(EQUAL, 0, len(body), numbers.pop(name)), *body]
    for number in numbers.values():
        program += [(EQUAL, 0, 1, number), allow]
    return [*program, deny]


def prctl(option: int, *arguments) -> None:
    words = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in (*arguments, *[0] * (4 - len(arguments)))]
    checked(f"prctl({option})", libc.prctl(option, *words))


def checked(what: str, result: int) -> int:
    """The result of a call of the C library, if it is not a refusal."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


# ---- Landlock, where the kernel has it

CREATE_RULESET, RESTRICT_SELF = 444, 446  # the same on both machines


def landlock_version() -> int:
    """Of the kernel's interface; 0 if it has none, or it is switched off."""
    return max(libc.syscall(CREATE_RULESET, None, 0, 1), 0)


def no_rights() -> int:
    """A Landlock ruleset, as a descriptor, that takes away all that the kernel knows; -1 if it knows none.

    Files, and in newer kernels ports, and signals to processes outside.
    """
    version = landlock_version()
    if not version:
        return -1
    files = (1 << 13) - 1  # version 1
    files |= (version >= 2) << 13 | (version >= 3) << 14 | (version >= 5) << 15
    attributes = [files] + [3] * (version >= 4) + [3] * (version >= 6)  # rights to files; to ports; scopes
    packed = struct.pack(f"{len(attributes)}Q", *attributes)
    ruleset = checked("landlock", libc.syscall(CREATE_RULESET, packed, ctypes.c_size_t(len(packed)), 0))
    return fcntl.fcntl(ruleset, fcntl.F_DUPFD, 10)  # low numbers are a child's own


# ---- everything together

LAST_CAPABILITY = 63
MARK = 0x7E577E57  # stands for the process in a filter until there is one


class Restrictions:
    """Restrictions, made ready once before the fork; a child puts them on. There is no way back.

    Raises:
      OSError: the kernel refuses one of the measures. Then nothing may be run.
      KeyError: no filter is known for this machine.
    """

    def __init__(self) -> None:
        program = allowlist(platform.machine(), MARK)
        self._filter = ctypes.create_string_buffer(
            b"".join(struct.pack("HBBI", *line) for line in program), 8 * len(program)
        )
        self._pids = [8 * place + 4 for place, line in enumerate(program) if line[3] == MARK]
        self._header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(self._filter))
        self._ruleset = no_rights()
        prctl(4, 0)  # PR_SET_DUMPABLE
        drop_capabilities()
        with open("/proc/self/statm") as pages:
            self._own_bytes = int(pages.read().split()[0]) * resource.getpagesize()

    def limit(self, cpu_seconds: float, memory_bytes: int, descriptors: int) -> None:
        """Resource limits, for what the deadline from outside does not see, and only so many descriptors.

        Args:
          memory_bytes: of address space, beyond what the process has already.
        """
        for kind, value in (
            (resource.RLIMIT_AS, self._own_bytes + memory_bytes),
            (resource.RLIMIT_CPU, int(cpu_seconds) + 2),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_NPROC, 0),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, 8),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
        ):
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))
        os.closerange(descriptors, 256)

    def put_on(self, cpu_seconds: float, memory_bytes: int, descriptors: int) -> None:
        """Leaves this process computation and so many descriptors."""
        prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
        if self._ruleset >= 0:
            checked("landlock", libc.syscall(RESTRICT_SELF, self._ruleset, 0))
        self.limit(cpu_seconds, memory_bytes, descriptors)
        for place in self._pids:
            struct.pack_into("I", self._filter, place, os.getpid())
        prctl(22, 2, self._header)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def drop_capabilities() -> None:
    """Gives up what root may do, and may get back."""
    for capability in range(LAST_CAPABILITY + 1):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; refused to who has none, and beyond the last one
    header, nothing = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)  # _LINUX_CAPABILITY_VERSION_3
    checked("capset", libc.capset(header, nothing))
