"""`rlbench-new` and `rlbench-check`, as a person uses them: a start that passes at once, and what a fault is told."""

import re
from subprocess import CompletedProcess

import pytest

from rlbench.discovery import find_plugins
from rlbench.scaffold import start
from rlbench.testing import ALGORITHM_CHECKS, TASK_CHECKS, options
from rlbench.types import ConfigError
from tests import forked
from tests.cli.test_cli import TINY

COMMANDS = {"rlbench": "rlbench.cli", "rlbench-check": "rlbench.testing.command", "rlbench-new": "rlbench.scaffold"}


def run(folder, command: str, *words: str) -> CompletedProcess:
    return forked.run(COMMANDS.get(command, command), *words, cwd=folder, env=forked.variables())


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A folder with a start of each kind."""
    folder = tmp_path_factory.mktemp("started")
    for group, name in (("algo", "my_algo"), ("task", "my_task")):
        done = run(folder, "rlbench-new", group, name)
        assert done.returncode == 0, done.stderr
        assert f"rlbench-check --config-dir conf {group}={name}" in done.stdout
    return folder


def test_a_start_is_three_files_of_each_kind(started):
    files = {str(path.relative_to(started)) for path in started.rglob("*.*") if "__pycache__" not in path.parts}
    names = {"my_algo": "algo", "my_task": "task"}
    wanted = {f"{stem}.py" for name in names for stem in (name, f"test_{name}")}
    assert files == wanted | {f"conf/{group}/{name}.yaml" for name, group in names.items()}


def test_a_start_passes_its_checks_at_once_and_the_checklist_says_so(started, cache):
    words = ["--config-dir", "conf", "algo=my_algo", "task=my_task", f"cache={cache}"]
    done = run(started, "rlbench-check", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    for check in ("builds", *ALGORITHM_CHECKS, *TASK_CHECKS):
        assert re.search(rf"{'-' if check in ('after', 'idle rows', 'keep') else '✓'} +{check} ", done.stdout), check
    assert f"\n{len(ALGORITHM_CHECKS) - 2} passed, 3 not applicable, in " in done.stdout
    assert f"\n{1 + len(TASK_CHECKS)} passed, in " in done.stdout


def test_a_start_runs_at_once(started, cache):
    done = run(started, "rlbench", "--config-dir", "conf", "algo=my_algo", "task=my_task", *TINY, f"cache={cache}")
    assert done.returncode == 0, done.stderr
    assert "my_algo" in done.stdout


def test_a_start_s_own_tests_pass(started):
    done = run(started, "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    assert f"{len(ALGORITHM_CHECKS) + len(TASK_CHECKS) - 3} passed, 3 skipped" in done.stdout


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ppo", "rlbench has an option algo=ppo"),
        ("class", "identifier"),
        ("3x", "identifier"),
        ("my-algo", "identifier"),
        ("_mine", "begins with a letter"),
        ("null", "something else on Hydra's command line"),
        ("sum", "Python itself"),
        ("Model", "the start uses this name"),
        ("json", "a module that can be imported"),
    ],
)
def test_a_name_that_does_not_work_is_refused_and_nothing_is_written(tmp_path, name, why):
    find_plugins([])
    with pytest.raises(ConfigError, match=f"name={name}: .*{why}"):
        start("algo", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["mine.py", "conf/task/mine.yaml", "test_mine.py"])
def test_nothing_is_overwritten_and_nothing_is_written_beside_it(tmp_path, there):
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).write_text("mine")
    done = run(tmp_path, "rlbench-new", "task", "mine", "--folder", str(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"rlbench-new: name=mine: .* exists, and nothing is overwritten\n", done.stderr)
    assert [path.read_text() for path in tmp_path.rglob("*.*") if path.is_file()] == ["mine"]


FAULTY = '''
"""Faulty: an idea without a source."""
from rlbench.learning.estimators import group_centred, over_tokens
from rlbench.learning.objectives import token_mean
from rlbench.models.likelihood import token_logp
from rlbench.types import Algorithm, Model


def faulty(model: Model) -> Algorithm:
    """An idea."""

    def init(key, policy, rollouts):
        return {"policy": policy}, {}

    def score(trainable, frozen, rollouts, version):
        return {"gain": over_tokens(group_centred(rollouts)[0], rollouts)}

    def loss(trainable, frozen, rollouts, scores):
        logp = token_logp(model, trainable["policy"], rollouts)
        loss = token_mean(-scores["gain"] * logp, rollouts, {})
        return loss._replace(total=loss.total / loss.weight)

    return Algorithm(init, score, loss, group_size=4)
'''


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "conf/algo").mkdir(parents=True)
    (folder / "conf/algo/faulty.yaml").write_text("# An idea\n_target_: faulty.faulty\n")
    (folder / "conf/algo/broken.yaml").write_text("# An idea\n_target_: faulty.faulty\nclip: 0.2\n")
    (folder / "faulty.py").write_text(FAULTY.lstrip())
    return folder


def test_a_failure_says_what_was_expected_what_came_and_where_to_look(faulty, cache):
    done = run(faulty, "rlbench-check", "--config-dir=conf", "algo=faulty", f"cache={cache}")
    assert done.returncode == 1 and done.stderr == ""
    said = re.sub(" +", " ", done.stdout)
    line = FAULTY.lstrip().split("def loss")[0].count("\n") + 1
    assert re.search(
        r"\nhalves\n expected two halves adding up to the whole: total = \S+ ?"
        rf"\n came \S+ ?\n look at faulty.py:{line} loss; docs/algorithm.md, \"halves\"",
        said,
    )
    assert "came the docstring 'An idea.'" in said
    assert re.search(r"- zero advantage Zero.*\n.*\n not applicable: score returns no", said), (
        "visible, with its reason"
    )
    assert re.search(r"\n\d+ passed, 2 failed, 5 not applicable, in ", said)


def test_a_plugin_that_cannot_be_built_fails_its_first_check(faulty):
    done = run(faulty, "rlbench-check", "--config-dir=conf", "algo=broken")
    assert done.returncode == 1
    assert "came      algo.clip=0.2: unknown key" in done.stdout
    assert 'look at   conf/algo/broken.yaml; docs/algorithm.md, "builds"' in done.stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["algo=grop"], "algo=grop: no such option; nearest: grpo"),
        (["algo=grpo", "algo.clip=-1"], "algo.clip=-1: input should be greater than 0"),
        (["algo=grpo", "algo.clap=1"], "algo.clap=1: no such key; nearest: algo.clip"),
        (["task=code", "verifier.backend=none"], "verifier.backend=none: input should be"),
        (["--config-dir", "nowhere", "algo=grpo"], "--config-dir=nowhere: no such folder"),
    ],
)
def test_a_wrong_config_is_one_line_and_exit_code_2(tmp_path, words, why):
    done = run(tmp_path, "rlbench-check", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"rlbench-check: {why}") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_without_a_name_every_installed_plugin_has_a_line(tmp_path, cache):
    done = run(tmp_path, "rlbench-check", f"cache={cache}")
    assert done.returncode == 0, done.stdout
    said = [line.split()[1] for line in done.stdout.splitlines()]
    assert said == [f"{group}={name}" for group in ("algo", "task") for name in options(group)]
