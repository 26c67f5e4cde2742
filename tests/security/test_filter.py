"""The seccomp filter of each machine, interpreted: machines that are not here, too."""

import pytest

from rlbench.verifying.confine import DENY, KILL, NUMBERS, PRETEND, allowlist


def interpret(program, machine_word: int, number: int, arguments=(0,) * 6) -> int:
    """The answer of a filter of classic BPF to a system call."""
    data = [number, machine_word, 0, 0]
    for argument in arguments:
        data += [argument & 0xFFFFFFFF, argument >> 32 & 0xFFFFFFFF]
    at, word = 0, 0
    while True:
        code, yes, no, constant = program[at]
        at += 1
        if code == 0x20:
            word = data[constant // 4]
        elif code == 0x06:
            return constant
        else:
            taken = {0x15: word == constant, 0x35: word >= constant, 0x45: bool(word & constant)}[code]
            at += yes if taken else no


@pytest.mark.parametrize("machine", NUMBERS)
class TestFilter:
    """The allowlist of each machine, interpreted."""

    WORDS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # noqa: RUF012
    FORBIDDEN = {  # noqa: RUF012
        "x86_64": {"open": 2, "openat": 257, "openat2": 437, "socket": 41, "clone": 56, "clone3": 435, "fork": 57}
        | {"vfork": 58, "execve": 59, "ptrace": 101, "memfd_create": 319, "io_uring_setup": 425, "fcntl": 72}
        | {"setrlimit": 160, "seccomp": 317, "prctl": 157, "tkill": 200, "pidfd_open": 434, "pkey_mprotect": 329},
        "aarch64": {"openat": 56, "openat2": 437, "socket": 198, "clone": 220, "clone3": 435, "execve": 221}
        | {"ptrace": 117, "memfd_create": 279, "io_uring_setup": 425, "fcntl": 25, "setrlimit": 164, "seccomp": 277}
        | {"prctl": 167, "tkill": 130, "pidfd_open": 434, "pkey_mprotect": 288, "execveat": 281},
    }

    def ask(self, machine, number, *arguments):
        padded = (*arguments, *[0] * (6 - len(arguments)))
        return interpret(allowlist(machine, 4321), self.WORDS[machine], number, padded)

    def test_what_opens_starts_or_connects_is_denied(self, machine):
        assert {name: n for name, n in self.FORBIDDEN[machine].items() if self.ask(machine, n) != DENY} == {}

    def test_what_python_needs_is_allowed(self, machine):
        for name in ("read", "write", "futex", "brk", "munmap", "exit_group", "rt_sigreturn", "getrandom"):
            assert self.ask(machine, NUMBERS[machine][name]) == 0x7FFF0000, name

    def test_memory_may_not_be_executable(self, machine):
        for name in ("mmap", "mprotect"):
            number = NUMBERS[machine][name]
            assert self.ask(machine, number, 0, 4096, 3) == 0x7FFF0000
            assert {self.ask(machine, number, 0, 4096, p) for p in (4, 5, 7, 7 | 1 << 33)} == {DENY}

    def test_signals_are_for_itself(self, machine):
        for name, own in (("kill", (4321,)), ("tgkill", (4321, 4321))):
            number = NUMBERS[machine][name]
            assert self.ask(machine, number, *own, 6) == 0x7FFF0000
            assert {self.ask(machine, number, pid, *own[1:], 6) for pid in (0, 1, 4320, 2**32 - 1)} == {DENY}
            assert {self.ask(machine, number, *own, kill) for kill in (9, 9 | 1 << 32)} == {DENY}, "others' signature"

    def test_a_program_does_not_give_way(self, machine):
        assert self.ask(machine, NUMBERS[machine]["sched_yield"]) == PRETEND

    def test_clocks_are_its_own(self, machine):
        number = NUMBERS[machine]["clock_gettime"]
        assert {self.ask(machine, number, clock) for clock in (0, 1, 2, 3, 7, 11)} == {0x7FFF0000}
        assert {self.ask(machine, number, (~pid << 3 | 2) & 0xFFFFFFFF) for pid in (1, 4320)} == {DENY}

    def test_limits_may_be_looked_at(self, machine):
        number = NUMBERS[machine]["prlimit64"]
        assert self.ask(machine, number, 0, 7, 0, 1234) == 0x7FFF0000
        assert {self.ask(machine, number, *a) for a in ((1, 7, 0), (0, 7, 1), (0, 7, 1 << 32))} == {DENY}

    def test_another_interface_is_death(self, machine):
        other = self.WORDS["aarch64" if machine == "x86_64" else "x86_64"]
        assert interpret(allowlist(machine, 1), other, 0) == KILL
        if machine == "x86_64":
            assert self.ask(machine, 0x40000000 + 1) == KILL


def test_a_filter_is_not_known_for_every_machine():
    with pytest.raises(KeyError):
        allowlist("vax", 1)
