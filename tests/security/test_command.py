"""The command `rlbench-verify`."""

import json
import subprocess
import sys

from tests.security.machine import needs_monty, needs_sandbox


class TestCommand:
    """`rlbench-verify`."""

    def verify(self, text: str, *options: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "rlbench.verifying.command", *options]
        return subprocess.run(command, input=text, capture_output=True, text=True)

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
    def test_a_line_may_have_a_check_instead_of_tests(self):
        check = "def check(f):\n    assert f(2, 3) == 5\n    assert f(f(1, 1), 1) == 3"
        row = {"source": "def f(a, b): return a + b", "entry_point": "f", "check": check}
        rows = [row, row | {"source": "f = max"}, row | {"check": 1}, row | {"tests": []}, row | {"check": ""}]
        done = self.verify("\n".join(map(json.dumps, rows)))
        statuses = [json.loads(row)["status"] for row in done.stdout.splitlines()]
        assert statuses == ["passed", "wrong", *["infrastructure"] * 3] and done.returncode == 1

    @needs_sandbox
    def test_a_verdict_comes_before_the_next_line_is_sent(self):
        command = [sys.executable, "-m", "rlbench.verifying.command"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
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
