"""The command line, as a person uses it: in a process of its own."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module

from rlbench.accounting import SCHEMA
from rlbench.help import leaves
from rlbench.warm_start import Cost
from tests import forked

SMALL = [
    "model.layers=1", "model.width=16", "model.heads=2", "model.hidden=16", "batch.rollouts=16",
    "steps=3", "warm_start.steps=4", "warm_start.accuracy=1", "warm_start.rollouts=16",
    "warm_start.check_every=2", "warm_start.problems=16",
    "evaluation.every=2", "evaluation.problems=8", "evaluation.samples=2", "evaluation.pass_at=[1,2]",
    "checkpoint.keep=0",  # half a second a process
]  # fmt: skip
TINY = [*SMALL, "task.digits=1"]


@pytest.fixture
def rlbench(cache, tmp_path):
    """Runs `rlbench` in an empty folder, on one device, with the session's cache."""

    return lambda *words: forked.run(*command(cache, *words)[2:], **settings(tmp_path))


def command(cache: Path, *words: str) -> list[str]:
    flags = (
        [] if {"--help", "--cfg", "cache"}.intersection(word.split("=")[0] for word in words) else [f"cache={cache}"]
    )
    return [sys.executable, "-m", "rlbench.cli", *words, *flags]


def settings(folder: Path) -> dict:
    return {"cwd": folder, "env": forked.variables()}


def folders(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.rglob("summary.json"))


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("algo", ["ppo", "grpo", "async_grpo"])
def test_a_run_leaves_its_config_its_metrics_and_its_summary(rlbench, tmp_path, algo):
    done = rlbench(f"algo={algo}", "seed=3", *TINY)
    assert done.returncode == 0, done.stderr
    (folder,) = folders(tmp_path / "outputs")
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert resolved["seed"] == resolved["warm_start"]["seed"] == 3, "interpolations are resolved"
    summary = json.loads((folder / "summary.json").read_text())
    assert {"algo": algo, "task": "arithmetic", "seed": 3, "status": "finished"}.items() <= summary.items()
    assert (summary["learner_steps"], summary["rollouts"]) == (3, 48)
    # A prompt of one digit, a sign, one digit and "=" is 4 tokens; a completion has 1 to 3.
    assert 48 * 5 <= summary["tokens"] <= 48 * 7
    assert 0 <= summary["accuracy_before"] <= 1 and 0 <= summary["accuracy_after"] <= 1
    assert summary["wall_seconds"] > 0
    assert summary["resident_bytes"] > summary["peak_memory_bytes"] > 10_000
    assert set(summary["warm_start"]) == set(Cost._fields)
    log = rows(folder)
    assert [row["step"] for row in log] == [0, 1, 2, 3]
    assert [("eval/accuracy" in row) for row in log] == [True, False, True, True]
    assert {"reward", "accuracy", "rollouts_per_second", "loss", "staleness_max"} <= log[-1].keys()
    assert "eval/pass@2" in log[-1]
    assert [key for row in log for key in row if not re.fullmatch(r"[a-z0-9_/@]+", key)] == [], "snake_case"
    assert "accuracy" in done.stdout and algo in done.stdout, "the table"
    ledger = json.loads((folder / "ledger.json").read_text())
    assert ledger["schema"] == SCHEMA and ledger["compute"]["executed"]["total"] == summary["flops"] == log[-1]["flops"]
    for title in ("compute, FLOPs executed", "memory, bytes a device", "rollouts of ", "what it cost"):
        assert title in done.stdout
    assert log[-1]["rollouts/fate/trained"] + log[-1]["rollouts/fate/zero_advantage"] == 48
    assert [row["flops"] for row in log] == sorted(row["flops"] for row in log), "totals, which only grow"


def test_somebody_who_watches_sees_a_progress_bar(cache, tmp_path):
    """On a terminal of 120 columns: reward, accuracy, speed, and the cursor back at the end, also of an error."""
    for words, seen in ((TINY, "3/3"), (["batch.rollouts=10"], "has to be a multiple")):
        ours, theirs = pty.openpty()
        how = settings(tmp_path)
        how["env"] |= {"TERM": "xterm", "COLUMNS": "120"}
        run = subprocess.Popen(command(cache, *words), **how, stdout=theirs, stderr=theirs)
        os.close(theirs)
        output = read_all(ours)
        assert run.wait() in (0, 2)
        assert seen in output
        assert output.count("\x1b[?25l") == output.count("\x1b[?25h"), "the cursor is hidden and shown again"
        if words is TINY:
            assert re.search(r"reward \d\.\d{3}  accuracy \d\.\d{3}  [\d,]+ rollouts/s", output)
        else:
            assert output.strip().count("\n") == 0, output


def read_all(terminal: int) -> str:
    """The output of a process on its terminal, until it let go of it."""
    output = b""
    with contextlib.suppress(OSError):  # Linux's word for the end
        while chunk := os.read(terminal, 65536):
            output += chunk
    return output.decode()


def test_runs_of_a_sweep_share_their_start_and_have_a_table(rlbench, tmp_path):
    done = rlbench("-m", "algo=ppo,grpo,async_grpo", *TINY)
    assert done.returncode == 0, done.stderr
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders(tmp_path / "multirun")]
    assert [summary["algo"] for summary in summaries] == ["ppo", "grpo", "async_grpo"]
    assert len({summary["accuracy_before"] for summary in summaries}) == 1
    assert len({json.dumps(summary["warm_start"]) for summary in summaries}) == 1, "made once, taken twice"
    table = done.stdout[done.stdout.index("algorithm") :]
    for word in ("ppo", "grpo", "async_gr", "before", "after", "rollouts", "tokens", "seconds", "MB"):
        assert word in table


def test_a_preset_without_a_sweep_says_that_it_is_one_run(rlbench):
    done = rlbench("experiment=critic_cost", "batch.rollouts=15")
    assert done.returncode == 2 and "one run, of the config's own values; -m sweeps algo=ppo,grpo seed=" in done.stdout


def test_each_job_has_a_process_and_a_bad_one_fails_alone(rlbench, tmp_path):
    done = rlbench("-m", "algo=grpo,grpoo", "algo.group_size=3,8", *TINY)
    assert done.returncode == 2
    assert len(folders(tmp_path / "multirun")) == 1
    assert done.stdout.count("failed: algo=grpoo: no such option; nearest: grpo") == 2
    assert "batch.rollouts=16: has to be a multiple of 3, for algo.group_size = 3" in done.stdout


def test_a_crash_of_one_job_leaves_the_others(rlbench, tmp_path):
    """The tracker of the second, made from a file in the working folder, aborts its process."""
    (tmp_path / "crash.py").write_text(
        "import os\nclass Abort:\n"
        "    def __init__(self, *, when): self.when = when\n"
        "    def begin(self, folder): pass\n"
        "    def log(self, row): os.abort() if self.when else None\n"
        "    def trajectories(self, step, rows): pass\n"
        "    def note(self, text): pass\n"
        "    def finish(self, summary, ledger): pass\n"
    )
    tracker = ["tracker=none", "+tracker.crash._target_=crash.Abort", "+tracker.crash.when=false,true,false"]
    done = rlbench("-m", *tracker, *TINY)
    assert done.returncode == 1
    assert "job 2 failed: the process died: SIGABRT" in done.stdout
    assert [folder.name for folder in folders(tmp_path)] == ["0", "2"]


def test_any_algorithm_runs_under_any_runner(rlbench, tmp_path):
    assert rlbench("algo=ppo", "runner=async", "runner.max_staleness=2", *TINY, "steps=6").returncode == 0
    assert rlbench("algo=async_grpo", "runner=sync", *TINY).returncode == 0
    stale, fresh = (max(row.get("staleness_max", 0) for row in rows(f)) for f in folders(tmp_path / "outputs"))
    assert fresh == 0 < stale <= 2


def test_an_experiment_goes_before_the_defaults_and_after_the_command_line(rlbench):
    told = yaml.safe_load((Path(__file__).parents[2] / "conf/experiment/demo.yaml").read_text())
    demo = rlbench("experiment=demo", "algo=async_grpo", "--cfg", "job").stdout
    assert f"\nsteps: {told['steps']}\n" in demo and f"rollouts: {told['batch']['rollouts']}\n" in demo
    assert re.search(r"^steps: 7$", rlbench("experiment=demo", "steps=7", "--cfg", "job").stdout, re.MULTILINE)


def test_async_grpo_brings_its_runner(rlbench):
    shown = rlbench("algo=async_grpo", "--cfg", "job").stdout
    assert re.search(r"runner:\n  max_staleness: [1-9]", shown)
    assert "max_staleness: 0" in rlbench("algo=grpo", "--cfg", "job").stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["algo=gropo"], "algo=gropo: no such option; nearest: grpo, rloo, gspo"),
        (["model.widht=3"], "model.widht=3: no such key; nearest: model.width"),
        (["batchsize=3"], "batchsize=3: no such key"),
        (["+algo.clap=3"], "algo.clap=3: unknown key; nearest: clip"),
        (["algo.clip=-1"], "algo.clip=-1: input should be greater than 0"),
        (["optimizer.learning_rate=nan"], "optimizer.learning_rate=nan: input should be a finite number"),
        (["algo.kl_coef=much"], "algo.kl_coef=much: input should be a valid number"),
        (["seed=-1"], "seed=-1: input should be greater than or equal to 0"),
        (["batch.rollouts=10"], "batch.rollouts=10: has to be a multiple of 8, for algo.group_size = 8"),
        (
            ["batch.minibatches=3"],
            "batch.rollouts=512: has to be a multiple of 24, for batch.minibatches of whole groups",
        ),
        (
            ["batch.max_completion_tokens=3"],
            "batch.max_completion_tokens=3: at least 4, for the longest answer and its end",
        ),
        (
            ["batch.max_episode_tokens=3"],
            "batch.max_episode_tokens=3: at least 4, for the longest answer of every turn and its end, and",
        ),
        (["tokenizer.alphabet=abc"], "tokenizer.alphabet='abc': has to hold '+'"),
        (["evaluation.pass_at=[9]"], "evaluation.pass_at=9: at most evaluation.samples = 4"),
        (["task.operations=[divide]"], "task.operations.0=divide: input should be 'add'"),
        (["model.heads=3"], "model.width=64: a multiple of 2 * heads = 6"),
        (["algo=ppo", "algo.critic.heads=3"], "algo.critic.width=64: a multiple of 2 * heads = 6"),
        (["algo=ppo", "+algo.critic.depth=3"], "algo.critic.depth=3: no size of a transformer"),
        (["model.attention=cudnn"], "model.attention=cudnn: wants model.compute_dtype bfloat16 or float16"),
        (["cache=/proc/nowhere"], "cache=/proc/nowhere: a folder that can be written to"),
        (["steps=${nowhere}"], "nowhere"),
        (["algo==3"], "algo==3"),
    ],
)
def test_a_wrong_config_is_one_line_and_exit_code_2(rlbench, tmp_path, words, line):
    done = rlbench(*words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and line in done.stderr, done.stderr
    assert not folders(tmp_path)


def test_rollouts_have_to_divide_over_the_devices(cache, tmp_path):
    how = settings(tmp_path)
    how["env"]["XLA_FLAGS"] += " --xla_force_host_platform_device_count=3"
    done = forked.run(*command(cache, "batch.rollouts=64")[2:], **how)
    assert done.returncode == 2
    assert "batch.rollouts=64: has to be a multiple of 24, for algo.group_size = 8 (3 devices)" in done.stderr


def test_nan_stops_the_run_with_the_step_and_the_metric(rlbench, tmp_path):
    # A critic has something to learn whatever is earned.
    done = rlbench("algo=ppo", "optimizer.learning_rate=1e30", *TINY, "steps=20")
    assert done.returncode == 1
    assert re.fullmatch(r"rlbench: learner step \d+: [\w/]+ is (nan|-?inf)\n", done.stderr), done.stderr
    summary = json.loads((folders(tmp_path)[0] / "summary.json").read_text())
    assert summary["status"] == "diverged" and "learner step" in summary["error"]
    assert summary["accuracy_before"] is not None and summary["learner_steps"] < 20


FRAIL = '''
from rlbench.tasks.arithmetic import Arithmetic

class Frail(Arithmetic):
    """Reward 1 for the sum."""

    def step(self, state, completion):
        answer = super().step(state, completion)
        return answer if answer.reward else {}[completion]
'''


def test_a_task_that_raises_ends_the_run_in_one_line(rlbench, tmp_path):
    (tmp_path / "conf/task").mkdir(parents=True)
    (tmp_path / "frail.py").write_text(FRAIL)
    (tmp_path / "conf/task/frail.yaml").write_text("defaults: [arithmetic, _self_]\n_target_: frail.Frail\n")
    done = rlbench("--config-dir", "conf", "algo=grpo", "task=frail", *TINY, "warm_start.steps=0")
    assert done.returncode == 1
    reason = r"KeyError: .* \(problem '\d[-+]\d=', completion .*\)"
    most = r"verifier.max_failures=0.1: 1\d of the last 16 completions could not be judged"
    assert re.fullmatch(rf"rlbench: {most}; the last: {reason}\n", done.stderr), done.stderr
    assert re.search(rf"a completion could not be judged, and its rollout is masked: {reason}\n", done.stdout)
    summary = json.loads((folders(tmp_path)[0] / "summary.json").read_text())
    assert summary["status"] == "failed" and "verifier.max_failures" in summary["error"]


@pytest.mark.parametrize("runner", ["sync", "async"])
def test_ctrl_c_writes_the_summary_and_exits_with_130(cache, tmp_path, runner):
    words = [*TINY, "steps=100000", f"runner={runner}"]
    interrupt(command(cache, *words), tmp_path, os.kill)
    (folder,) = folders(tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted" and 0 < summary["learner_steps"] < 100000
    # A step is a line as soon as its evaluation, if one was due, is over.
    assert len(rows(folder)) - 1 in (summary["learner_steps"], summary["learner_steps"] - 1)


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to its parent", "to all, as a terminal does"])
def test_ctrl_c_ends_a_sweep(cache, tmp_path, send):
    words = ["-m", "seed=0,1", *TINY, "steps=100000"]
    interrupt(command(cache, *words), tmp_path, send)
    assert [json.loads((f / "summary.json").read_text())["status"] for f in folders(tmp_path)] == ["interrupted"]


def interrupt(words: list[str], folder: Path, send) -> None:
    """Starts a command as the leader of a process group, and interrupts it once it has taken some steps."""
    run = subprocess.Popen(words, **settings(folder), stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(lambda: [f for f in folder.rglob("metrics.jsonl") if f.read_text().count("\n") > 3])
        send(run.pid, signal.SIGINT)
        assert run.wait(60) == 130
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_one_seed_is_one_run_but_for_times(cache, tmp_path):
    """In processes that hash differently."""
    for _ in range(2):
        words = command(cache, "algo=ppo", *TINY, "batch.minibatches=2", "batch.epochs=2")
        subprocess.run(words, **settings(tmp_path), capture_output=True, check=True)
        time.sleep(1)  # Hydra names folders by the second
    first, second = (
        [{name: value for name, value in row.items() if not re.search("second|resident", name)} for row in rows(folder)]
        for folder in folders(tmp_path)
    )
    assert first == second


def test_another_seed_is_another_run(rlbench, tmp_path):
    for seed in (0, 1):
        assert rlbench(f"seed={seed}", *TINY, f"hydra.run.dir={seed}").returncode == 0
    first, second = ([row["tokens"] for row in rows(tmp_path / str(seed))] for seed in (0, 1))
    assert first != second


COUNT_MISSES = """
import sys, jax
seen = []
jax.monitoring.register_event_listener(lambda event, **_: seen.append(event))
from rlbench.cli import main
main()
print("cache misses:", sum(event.endswith("/cache_misses") for event in seen))
"""


def test_the_second_run_compiles_nothing(tmp_path):
    misses = []
    for _ in range(2):
        words = [sys.executable, "-c", COUNT_MISSES, *TINY, "warm_start.steps=0", f"cache={tmp_path / 'cache'}"]
        done = subprocess.run(words, **settings(tmp_path), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        misses.append(int(re.search(r"cache misses: (\d+)", done.stdout)[1]))
    assert misses[0] > 3 and misses[1] == 0


def test_help_lists_every_group_option_and_key_with_what_it_means(rlbench):
    shown = rlbench("--help").stdout
    conf = Path(__file__).parents[2] / "conf"
    for option in [*conf.glob("*/*.yaml"), *conf.glob("hydra/*/*.yaml")]:
        assert re.search(rf"^   [* ] {option.stem} +\S.{{10,}}$", shown, re.MULTILINE), option
    for choices in ([], ["algo=ppo"], ["algo=async_grpo"], ["optimizer=sgd"]):
        shown = rlbench("--help", *choices).stdout
        with initialize_config_module("rlbench.conf", version_base="1.3"):
            for key, value in leaves(compose("config", choices)):
                line = next(line for line in shown.splitlines() if line.split()[:1] == [key])
                assert not line.endswith(value), f"says nothing of {key}"


def test_cfg_shows_the_config_without_running(rlbench, tmp_path):
    shown = rlbench("model.width=32", "--cfg", "job")
    assert shown.returncode == 0 and "width: 32" in shown.stdout
    assert not folders(tmp_path)
