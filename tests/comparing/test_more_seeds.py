"""Commands that run the seeds that a verdict still needs: these, all of these, and no others."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from rlbench.comparing.curves import AXES
from rlbench.comparing.groups import comparisons, is_seed
from rlbench.comparing.markdown import verdict
from rlbench.comparing.more_seeds import commands_of
from rlbench.comparing.pairwise import judge
from rlbench.comparing.report import verdicts
from rlbench.comparing.runs import Run, flat, load_run
from rlbench.hydra_adapter import combinations, parse_overrides
from tests import forked
from tests.cli.test_cli import TINY, command, settings

from . import made


def runs_of(words: list[str], seeds: dict[int, float], sweep: Path | None = None, algo: str = "first") -> list[Run]:
    """Runs by the same words, which end at these accuracies."""
    return [
        made.run(seed, {0: 0.0, 10: last}, algo=algo)._replace(words=[*words, f"seed={seed}"], sweep=sweep)
        for seed, last in seeds.items()
    ]


def commands(*runs: list[Run], **how: float) -> list[str]:
    ((comparison,), _) = comparisons(itertools.chain(*runs))
    judged = judge(comparison, AXES["rollouts"], **how)
    (test,) = judged.tests
    return commands_of(judged, test)


FOUR = {0: 0.50, 1: 0.52, 2: 0.54, 3: 0.56}
OTHERS = {0: 0.51, 1: 0.53, 2: 0.55, 3: 0.57}


def test_one_command_runs_both_groups_in_their_folder():
    near = {seed: last + 0.03 for seed, last in FOUR.items()}
    sweep = Path("multirun/mine")
    first = runs_of(["algo=first", "steps=5"], FOUR, sweep)
    second = runs_of(["algo=second", "steps=5"], near, sweep, "second")
    (line,) = commands(first, second)
    assert line == "rlbench -m algo=first,second steps=5 seed=4,5,6,7,8,9,10,11,12 hydra.sweep.dir=multirun/mine"


def test_a_winner_needs_no_seeds():
    assert commands(runs_of([], FOUR), runs_of([], {seed: 0.9 + seed / 100 for seed in range(4)}, algo="second")) == []


def test_where_no_number_is_named_no_command_is():
    assert commands(runs_of([], FOUR), runs_of([], FOUR, algo="second")) == []


def test_groups_without_a_spread_get_the_fewest_seeds_of_a_test():
    (line,) = commands(runs_of(["algo=first"], {0: 0.5}), runs_of(["algo=second"], {0: 0.6}, algo="second"))
    assert line == "rlbench -m algo=first,second seed=1,2,3"


def test_gaps_are_filled_and_each_group_gets_what_it_lacks():
    first, second = (
        runs_of(["algo=first"], {0: 0.5, 7: 0.51}),
        runs_of(["algo=second"], {1: 0.9, 2: 0.91, 3: 0.9}, algo="second"),
    )
    assert commands(first, second) == ["rlbench -m algo=first seed=1,2", "rlbench -m algo=second seed=0"]


def test_a_group_that_has_enough_is_not_run():
    first = runs_of(["algo=first"], {0: 0.5, 1: 0.51})
    second = runs_of(["algo=second"], dict(enumerate([0.90, 0.91, 0.90, 0.92])), algo="second")
    assert commands(first, second) == ["rlbench -m algo=first seed=2,3"]


def test_seeds_that_were_not_measured_at_the_budget_are_not_run_again():
    first = runs_of(["algo=first"], {0: 0.5, 1: 0.51, 2: 0.52})
    short = [made.run(3, {0: 0.0, 5: 0.2}, algo="first")._replace(words=["algo=first", "seed=3"])]
    second = runs_of(["algo=second"], dict(enumerate([0.90, 0.91, 0.90, 0.92])), algo="second")
    assert commands(first, short, second, budget=900) == ["rlbench -m algo=first seed=4"]


@pytest.mark.parametrize(
    ("words", "others"),
    [
        (["algo=first", "algo.clip=0.1"], ["algo=second", "algo.clip=0.2"]),
        (["algo=first"], ["algo=second", "steps=5"]),
        (["algo.clip=0.1"], ["algo.kl=0.2"]),
        (["tag="], ["tag=x"]),
    ],
)
def test_words_that_differ_in_more_than_a_value_are_two_commands(words, others):
    found = commands(runs_of(words, {0: 0.5}), runs_of(others, {0: 0.6}, algo="second"))
    assert found == [shlex.join(["rlbench", "-m", *own, "seed=1,2,3"]) for own in (words, others)]


def test_runs_of_two_folders_go_on_in_their_own():
    found = commands(
        runs_of(["algo=first"], {0: 0.5}, Path("a")), runs_of(["algo=second"], {0: 0.6}, Path("b"), "second")
    )
    assert found == [
        "rlbench -m algo=first seed=1,2,3 hydra.sweep.dir=a",
        "rlbench -m algo=second seed=1,2,3 hydra.sweep.dir=b",
    ]


def test_what_a_shell_and_hydra_would_change_is_quoted():
    sweep, quoted = Path("it's (a) folder"), ["--config-dir=/a b/conf", "++note='it\\'s $HOME, a=b'", "list=[1,{a: 2}]"]
    first = runs_of([*quoted, "algo='a,b'"], {0: 0.5}, sweep)
    second = runs_of([*quoted, 'algo="c d"'], {0: 0.6}, sweep, "second")
    (line,) = commands(first, second)
    _, flag, place, *words = shlex.split(line)
    assert (flag, place) == ("-m", quoted[0])
    values = {one.key_or_group: one for one in parse_overrides(words)}
    assert [*values["algo"].sweep_string_iterator()] == ["'a,b'", '"c d"']
    assert values["hydra.sweep.dir"].value() == str(sweep) and values["note"].value() == "it's $HOME, a=b"
    assert values["list"].value() == [1, {"a": 2}]


def test_many_seeds_are_a_range_after_the_highest():
    (line,) = commands(runs_of(["algo=first"], FOUR), runs_of(["algo=second"], OTHERS, algo="second"))
    first, end = map(int, re.search(r"'seed=range\((\d+),(\d+)\)'", line).groups())
    assert first == 4 and end > 50
    (jobs,) = combinations(parse_overrides(shlex.split(line)[2:]), None)
    assert len(jobs) == 2 * (end - 4)


@pytest.mark.parametrize("words", [None, ["note=\x1b[31m", "algo=second"]])
def test_a_group_whose_words_are_not_known_has_a_comment(words):
    second = [run._replace(words=words) for run in runs_of([], {0: 0.6}, algo="second")]
    assert commands(runs_of(["algo=first"], {0: 0.5}), second) == [
        "rlbench -m algo=first seed=1,2,3",
        "# second: no command, since the words of its runs were not kept, or cannot be printed",
    ]


def test_one_run_that_kept_its_words_is_enough():
    first = runs_of(["algo=first"], {0: 0.5, 1: 0.6})
    first[1] = first[1]._replace(words=None)
    line, *_ = commands(first, runs_of(["algo=second"], {0: 0.9, 1: 0.9}, algo="second"))
    assert line.startswith("rlbench -m algo=first,second seed=2,3")


def test_the_sentence_is_followed_by_its_command():
    ((comparison,), _) = comparisons([*runs_of(["algo=a"], {0: 0.5}), *runs_of(["algo=b"], {0: 0.6}, algo="second")])
    ((words, lines),) = verdicts(judge(comparison, AXES["rollouts"]))
    assert "run at least 4 seeds a side" in words
    assert verdict((words, lines)).endswith(".\n\n      rlbench -m algo=a,b seed=1,2,3\n")


def test_a_command_composes_to_the_missing_configs_and_no_others():
    words = ["experiment=demo", *TINY, "batch.rollouts=32"]
    kept = [
        made.run(seed, {0: 0.0, 10: last}, algo=algo)._replace(words=own, config=config_of(own))
        for algo, last in (("ppo", 0.5), ("grpo", 0.6))
        for seed in (3,)
        for own in ([f"algo={algo}", f"seed={seed}", *words],)
    ]
    (line,) = commands(kept)
    (jobs,) = combinations(parse_overrides(shlex.split(line)[2:]), None)
    composed = [config_of(job) for job in jobs]
    assert sorted((one["algo._target_"], one["seed"]) for one in composed) == [
        (run.config["algo._target_"], seed) for run in reversed(kept) for seed in (0, 1, 2)
    ]
    alike = {run.config["algo._target_"]: without_seeds(run.config) for run in kept}
    assert all(without_seeds(one) == alike[one["algo._target_"]] for one in composed)


def config_of(words: list[str]) -> dict:
    """The config of one job, by dotted key."""
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        return dict(flat(OmegaConf.to_container(compose("config", words), resolve=True)))


def without_seeds(config: dict) -> dict:
    return {key: value for key, value in config.items() if not is_seed(key)}


@pytest.mark.slow
def test_the_command_runs_and_the_verdict_has_its_seeds(cache, tmp_path):
    words = command(cache, "-m", "algo=ppo,grpo", "seed=2", "hydra.sweep.dir=it's here", *TINY)
    words = [word.replace("=it's here", r"='it\'s here'") for word in words[2:]]
    for expected in (["1, 1", "seed=0,1,3"], ["4, 4"]):
        done = forked.run(*words, **settings(tmp_path))
        assert done.returncode == 0, done.stderr
        shown = forked.run("rlbench.comparing.command", "it's here", "--formats", "md", **settings(tmp_path)).stdout
        assert all(text in shown for text in expected)
        (line,) = re.findall(r"^    (rlbench -m .*)$", shown, re.MULTILINE)[:1] or [""]
        words = ["rlbench.cli", *shlex.split(line)[1:]]
    runs = [load_run(path.parent) for path in (tmp_path / "it's here").rglob("summary.json")]
    assert sorted((run.summary["algo"], run.summary["seed"]) for run in runs) == [
        (algo, seed) for algo in ("grpo", "ppo") for seed in (0, 1, 2, 3)
    ]
