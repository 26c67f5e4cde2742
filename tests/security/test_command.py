"""The command `rlbench-verify`."""

import json
import signal
import subprocess
import sys

import pytest

from rlbench.verifying.command import verify
from tests.security.machine import needs_monty, needs_sandbox


class TestCommand:
    """`rlbench-verify`."""

    COMMAND = (sys.executable, "-m", "rlbench.verifying.command")

    def verify(self, text: str, *options: str) -> subprocess.CompletedProcess:
        return subprocess.run([*self.COMMAND, *options], input=text, capture_output=True, text=True)

    def line(self, name, source, expected=5):
        tests = [{"args": [2, 3], "expected": expected}]
        return json.dumps({"id": name, "source": source, "entry_point": "f", "tests": tests})

    @needs_sandbox
    def test_verdicts_come_in_order(self):
        slow = "import time\ndef f(a, b):\n    time.sleep(0.3)\n    return a + b"
        lines = [self.line("slow", slow), "", self.line(2, "def f(a, b): return a + b"), self.line(None, "f = 1")]
        done = self.verify("\n".join(lines))
        rows = [json.loads(row) for row in done.stdout.splitlines()]
        assert [(row["id"], row["status"]) for row in rows] == [("slow", "passed"), (2, "passed"), (None, "error")]
        assert all(set(row) == {"id", "status", "cpu_seconds", "wall_seconds", "detail"} for row in rows)
        assert rows[0]["wall_seconds"] >= 0.3 > rows[0]["cpu_seconds"]
        assert done.returncode == 0, done.stderr

    @needs_sandbox
    def test_a_line_that_is_no_program_is_told_and_the_others_judged(self, tmp_path):
        path = tmp_path / "programs.jsonl"
        path.write_text(f"nonsense\n{self.line(1, 'def f(a, b): return 5')}\n" + '{"id": 2, "tests": []}\n')
        done = self.verify("", str(path), "--workers", "1", "--cpu-seconds", "1", "--memory-mb", "64")
        rows = [json.loads(row) for row in done.stdout.splitlines()]
        assert [(row["id"], row["status"]) for row in rows] == [
            (None, "infrastructure"), (1, "passed"), (2, "infrastructure")
        ]  # fmt: skip
        assert "line 1" in rows[0]["detail"] and "source" in rows[2]["detail"]
        assert done.returncode == 1

    @needs_sandbox
    def test_bytes_that_are_no_text_cost_one_line(self):
        lines = [self.line(1, "def f(a, b): return 5").encode(), b'{"id": 2, "source": "\xff"}', b"\xef\xbb\xbf{}"]
        lines.append(self.line(4, f"f = max  # {'1' * 30_000}", expected=3).encode())
        lines.append(lines[0].replace(b"5}", b"9" * 30_000 + b"}"))
        done = subprocess.run([*self.COMMAND, "--backend", "fork"], input=b"\n".join(lines), capture_output=True)
        rows = [json.loads(row) for row in done.stdout.splitlines()]
        assert [row["status"] for row in rows] == ["passed", *["infrastructure"] * 2, "passed", "infrastructure"]
        assert "line 2: UnicodeDecodeError" in rows[1]["detail"] and "line 5" in rows[4]["detail"]
        assert done.returncode == 1 and b"sandbox fork, " in done.stderr

    def test_a_file_that_cannot_be_read(self, tmp_path):
        for path in (tmp_path, tmp_path / "none"):
            done = self.verify("", str(path))
            assert done.returncode == 2 and str(path) in done.stderr and "Traceback" not in done.stderr

    def test_a_file_that_breaks_off_is_no_success(self):
        def lines():
            yield b"nonsense"
            raise OSError("the disk is gone")

        verdicts = verify(lines(), pool=None)
        assert next(verdicts)[1].status == "infrastructure"
        with pytest.raises(OSError, match="the disk is gone"):
            next(verdicts)

    @needs_sandbox
    def test_ctrl_c_does_not_wait_for_programs(self):
        lines = [self.line(1, "def f(a, b): return 5"), self.line(2, "import time\ndef f(a, b): time.sleep(600)")]
        command = [*self.COMMAND, "--workers", "1", "--wall-seconds", "600"]
        # Where this process ignores SIGINT, so would what it starts.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        finally:
            signal.signal(signal.SIGINT, handler)
        with process:
            process.stdin.write("\n".join([*lines, ""]).encode())
            process.stdin.flush()
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            process.wait(60)
            assert process.returncode == 130 and b"Traceback" not in process.stderr.read()

    @needs_sandbox
    def test_a_line_may_have_a_check_instead_of_tests(self):
        check = "def check(f):\n    assert f(2, 3) == 5\n    assert f(f(1, 1), 1) == 3"
        row = {"source": "def f(a, b): return a + b", "entry_point": "f", "check": check}
        rows = [row, row | {"source": "f = max"}, row | {"check": 1}, row | {"tests": []}, row | {"check": ""}]
        done = self.verify("\n".join(map(json.dumps, rows)))
        statuses = [json.loads(row)["status"] for row in done.stdout.splitlines()]
        assert statuses == ["passed", "wrong", *["infrastructure"] * 3] and done.returncode == 1

    @needs_sandbox
    def test_a_verdict_comes_before_the_next_line_is_sent(self):
        with subprocess.Popen(self.COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            for name in range(3):
                process.stdin.write(self.line(name, "def f(a, b): return a + b") + "\n")
                process.stdin.flush()
                assert json.loads(process.stdout.readline())["id"] == name
            process.stdin.close()
        assert process.returncode == 0

    @needs_monty
    def test_another_backend(self):
        lines = [self.line(1, "def f(a, b): return a + b"), self.line(2, "import pickle")]
        done = self.verify("\n".join(lines), "--backend", "monty")
        statuses = [json.loads(row)["status"] for row in done.stdout.splitlines()]
        assert statuses == ["passed", "unsupported"] and done.returncode == 0, done.stderr

    def test_wrong_options(self):
        for option in ("--cpu-seconds=nan", "--cpu-seconds=0", "--wall-seconds=inf", "--memory-mb=99999999999"):
            assert self.verify("", option).returncode == 2
        assert self.verify("", "--workers", "0").returncode == 2
        assert self.verify("", "--backend", "best").returncode == 2
