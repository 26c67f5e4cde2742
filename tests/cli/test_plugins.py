"""Plugins in a folder of one's own, from the command line: nothing is installed, and every job has them."""

import json
import re
import shlex
from subprocess import CompletedProcess

import pytest

from rlbench.comparing.groups import commands, comparisons
from rlbench.comparing.runs import load
from tests import forked
from tests.cli.test_cli import SMALL, command, folders, settings
from tests.core.test_discovery import write

ALGORITHM = """
from rlbench.algos.grpo import grpo
from rlbench.learning.objectives import Clip, LossAggregation

def mine(
    model, *, group_size: int, clip: Clip, kl_coef: float, advantage_eps: float, loss_aggregation: LossAggregation,
    twice: float,
):
    same = {"group_size": group_size, "clip": clip, "advantage_eps": advantage_eps}
    return grpo(model, kl_coef=2 * twice, loss_aggregation=loss_aggregation, **same)
"""
TASK = """
from rlbench.types import Bounds, Problem, Status, Step

class Same:
    bounds = Bounds(alphabet=frozenset("abcdefghij"), prompt=1, completion=1)

    def problem(self, seed, split):
        letter = "abcdefghij"[2 * (seed % 5) + (split == "heldout")]
        return Problem(letter, letter)

    def step(self, state, completion):
        return Step(state, None, float(completion == state), Status.PASSED if completion == state else Status.WRONG)

    def solution(self, state):
        return state
"""
FOLDER = {
    "my_algo.py": ALGORITHM,
    "my_task.py": TASK,
    "conf/algo/my_algo.yaml": "defaults: [grpo, _self_]\n_target_: my_algo.mine\ntwice: 0.01\n",
    "conf/task/my_task.yaml": "_target_: my_task.Same\n",
}
MINE = ["algo=my_algo", "task=my_task", *SMALL]


@pytest.fixture
def mine(tmp_path):
    """A folder with plugins, beside the one that is worked in."""
    return write(tmp_path / "mine", FOLDER)


def statuses(root) -> dict[str, str]:
    return {folder.name: json.loads((folder / "summary.json").read_text())["status"] for folder in folders(root)}


LAUNCHERS = [
    pytest.param(["hydra/launcher=joblib"], id="joblib"),
    pytest.param(
        ["hydra/launcher=submitit", "hydra.launcher.cluster=local"], id="submitit", marks=pytest.mark.slow
    ),
    pytest.param(["hydra/launcher=ray"], id="ray", marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_wherever_jobs_run_they_have_the_plugins(cache, tmp_path, mine, launcher):
    words = command(cache, "-m", "--config-dir", "mine/conf", *MINE, *launcher)
    done = forked.run(*words[2:], **settings(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = folders(tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    assert {"algo": "my_algo", "task": "my_task", "status": "finished"}.items() <= summary.items()


def test_what_a_sweep_prints_runs_its_plugins_again_from_elsewhere(cache, tmp_path, mine):
    """The command of a job, that of the whole sweep, and those of a comparison. One job's option is refused: it has two
    meanings; it fails alone."""
    write(mine, {"conf/algo/ppo.yaml": "defaults: [grpo]\n"})
    work, away = write(tmp_path / "work", {"x": ""}), write(tmp_path / "away", {"x": ""})
    sweep = ["algo=my_algo,ppo", *MINE[1:], f"hydra.sweep.dir={work}/here"]
    words = command(cache, "-m", "--config-dir", "../mine/conf", *sweep)
    done = forked.run(*words[2:], **settings(work))
    refused = "algo=ppo: offered by ../mine/conf and by rlbench; rename or remove one"
    assert done.returncode == 2 and f"job 2 failed: {refused}" in done.stdout, done.stdout + done.stderr
    assert statuses(work) == {"0": "finished"}

    def again(line: str) -> CompletedProcess:
        program, *rest = shlex.split(line)
        assert program == "rlbench"
        return forked.run(words[2], *rest, **settings(away))

    printed = [line for line in done.stdout.splitlines() if line.startswith("    rlbench")]
    alone = again(printed[0])
    assert alone.returncode == 2
    assert alone.stderr == f"rlbench: {refused.replace('../mine', str(mine))}\n"
    (work / "here/0/summary.json").unlink()
    assert again(printed[1]).returncode == 2
    assert statuses(work) == {"0": "finished"}
    ((comparison,), _) = comparisons(load([work / "here"])[0])
    (line,) = commands(comparison.groups[0])
    assert "_target_: my_algo.mine" in again(f"{line} --cfg job").stdout


FAULTS = {
    "an advantage a row": (
        {"my_algo.py": ALGORITHM.replace("return grpo(", "whole = grpo(") + """\
    return whole._replace(score=lambda *given: {"advantage": whole.score(*given)["advantage"][:, 0]})
"""},
        ["algo=my_algo", "task.digits=1"],
        r"mine/my_algo\.py:11 <lambda>: expected \"advantage\" f32\[B, T\]; came f32\[B\]",
    ),
    "a step without an answer": (
        {"my_task.py": TASK.replace("return Step(state", "Step(state")},
        ["task=my_task"],
        r"mine/my_task\.py:11 step: expected a Step or a PendingStep; came None",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_plugin_is_one_line_before_anything_is_spent(cache, tmp_path, mine, fault):
    files, words, said = FAULTS[fault]
    write(mine, files)
    words = command(cache, "--config-dir", "mine/conf", *words, *SMALL)
    done = forked.run(*words[2:], **settings(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(f"rlbench: {said}\n", done.stderr), done.stderr
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_the_whole_of_an_error_is_there_for_who_asks(cache, tmp_path, mine):
    write(mine, FAULTS["an advantage a row"][0])
    words = command(cache, "--config-dir", "mine/conf", "algo=my_algo", "task.digits=1", *SMALL)
    how = settings(tmp_path)
    how["env"] |= {"HYDRA_FULL_ERROR": "1"}
    done = forked.run(*words[2:], **how)
    assert done.returncode == 1 and "Traceback (most recent call last)" in done.stderr
    assert "check_scores" in done.stderr and 'expected "advantage" f32[B, T]; came f32[B]' in done.stderr
