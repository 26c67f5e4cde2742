"""Sweeps, with jobs that only pretend to train: where they run, what a failure leaves, what is done again."""

import contextlib
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_module
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from rlbench.accounting import SCHEMA
from rlbench.multirun import InvalidJob, JobFailed, register
from rlbench.multirun.job import perform
from rlbench.types import ConfigError
from tests import forked
from tests.cli.test_cli import TINY, command, folders, settings, wait_for

ROOT = Path(__file__).parents[2]
LAUNCHERS = [
    pytest.param(["hydra/launcher=process"], id="process"),
    pytest.param(["hydra/launcher=joblib"], id="joblib"),
    pytest.param(["hydra/launcher=submitit", "hydra.launcher.cluster=local"], id="submitit"),
    pytest.param(["hydra/launcher=ray", "hydra.launcher.remote.num_cpus=0.5"], id="ray", marks=pytest.mark.slow),
]


def pretend(config) -> float:
    """A run that leaves what a run leaves. Seed 7 aborts, 8 raises, 9 has a wrong config.

    Its accuracy is best where the learning rate is 0.01, whatever the seed.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    OmegaConf.save(config, folder / "config.yaml", resolve=True)
    with (folder / "processes").open("a") as file:
        file.write(f"{os.getpid()} {os.environ.get('XLA_PYTHON_CLIENT_PREALLOCATE')}\n")
    if config.seed == 7:
        os.abort()
    if config.seed == 8:
        raise ValueError("boo\nhoo")
    if config.seed == 9:
        raise ConfigError("seed", 9, "not\n9")
    accuracy = 1 - abs(config.optimizer.learning_rate - 0.01) * 10
    numbers = ("accuracy_before", "learner_steps", "rollouts", "tokens", "wall_seconds", "peak_memory_bytes")
    summary = dict.fromkeys(numbers, 0) | {"accuracy_after": accuracy, "seed": config.seed, "status": "finished"}
    (folder / "summary.json").write_text(json.dumps(summary | {"schema": SCHEMA, "algo": "some", "task": "none"}))
    return accuracy


def multirun(words, job) -> None:
    """Does with its words as `rlbench -m` does, but for another job."""
    register()
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", list(words), run_mode=RunMode.MULTIRUN)
        HydraConfig.instance().set_config(config)
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        sweeper = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=job, config=config)
        sweeper.sweep(OmegaConf.to_container(config.hydra.overrides.task, resolve=False))


@pytest.fixture
def sweep(tmp_path, monkeypatch, caplog):
    """Runs the sweep of a command line, in this process but for its jobs; returns what it said, and its error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for launchers that start a Python of their own
    monkeypatch.setattr("rlbench.hydra_adapter.configure_log", lambda *_: None)  # it would take pytest's away
    caplog.set_level(logging.INFO)

    def run(*words, job=pretend):
        error = None
        try:
            multirun(words, job)
        except (JobFailed, ConfigError) as raised:
            error = raised
        said = "\n".join(record.getMessage() for record in caplog.records) + "\n"
        caplog.clear()
        return said, error

    yield run
    HydraConfig.instance().cfg = None


@pytest.fixture
def here(monkeypatch):
    """Jobs run in this process: for questions about which are run, not where."""
    monkeypatch.setattr("hydra.core.utils.configure_log", lambda *_: None)
    spawn = lambda self, job, running=None: (job, perform(self.task_function, job.config))  # noqa: E731
    monkeypatch.setattr("rlbench.multirun.launchers.ProcessLauncher.spawn", spawn)


def running(sweep: Path) -> list[Path]:
    """Runs that write their metrics and have no summary yet."""
    return [path for path in sweep.glob("*/metrics.jsonl") if not path.with_name("summary.json").exists()]


def processes(folder: Path) -> list[str]:
    """One line a run that was started in a folder."""
    return (folder / "processes").read_text().splitlines()


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_wherever_jobs_run_each_has_a_process_and_a_bad_one_fails_alone(sweep, tmp_path, launcher):
    said, error = sweep(*launcher, "algo=grpo,grpoo", "seed=7,8,9,0", "hydra.sweep.dir=here")
    assert [folder.name for folder in folders(tmp_path / "here")] == ["3"], "of seed 0"
    ran = [line for number in range(4) for line in processes(tmp_path / "here" / str(number))]
    pids = {line.split()[0] for line in ran}
    assert len(ran) == len(pids) == 4 and str(os.getpid()) not in pids
    if {"hydra/launcher=joblib", "hydra/launcher=ray"}.intersection(launcher):
        assert {line.split()[1] for line in ran} == {"false"}, "a GPU's memory is shared"
    assert isinstance(error, JobFailed)
    listed = said[said.index("7 of 8 jobs failed") :]
    assert "  ValueError: boo hoo\n    rlbench algo=grpo seed=8\n" in listed
    assert "  seed=9: not 9\n    rlbench algo=grpo seed=9\n" in listed
    assert listed.count("  algo=grpoo: no such option; nearest: grpo") == 4
    died = listed[: listed.index("rlbench algo=grpo seed=7")].splitlines()[-2]
    assert died.startswith("  the process died")


def test_jobs_run_side_by_side(sweep, tmp_path):
    begun = time.monotonic()
    _, error = sweep("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1", "hydra.sweep.dir=here", job=meet)
    assert error is None and time.monotonic() - begun < 60


def meet(config) -> float:
    """A run that ends when another has begun."""
    (Path(HydraConfig.get().runtime.output_dir) / "here").touch()
    wait_for(lambda: len(list(Path("here").glob("*/here"))) == 2, seconds=60)
    return 0.0


def nap(config) -> float:
    """A run that ends when it is interrupted, or much too late."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / "pid").write_text(str(os.getpid()))
    try:
        time.sleep(300)
    except KeyboardInterrupt:
        (folder / "interrupted").touch()
        raise
    return 0.0


@pytest.mark.parametrize(
    ("launcher", "ends"),
    [
        pytest.param("process", lambda sweep, run: os.kill(sweep, signal.SIGTERM), id="the sweep is terminated"),
        pytest.param("joblib", lambda sweep, run: os.kill(run, signal.SIGINT), id="a run is interrupted"),
    ],
)
def test_no_run_outlives_its_sweep(tmp_path, launcher, ends):
    """Nor does a process of it wait for a run that nobody told of the end."""
    words = ["seed=0,1,2,3", f"hydra/launcher={launcher}", "hydra.sweep.dir=here"]
    code = f"from tests.cli.test_sweeps import multirun, nap; multirun({words}, nap)"
    how = settings(tmp_path)
    how["env"] |= {"PYTHONPATH": str(ROOT)}
    sweep = subprocess.Popen([sys.executable, "-c", code], **how, start_new_session=True)
    try:
        wait_for(lambda: list(tmp_path.glob("here/*/pid")))
        time.sleep(1)  # the text of it, and another one
        ends(sweep.pid, int(next(tmp_path.glob("here/*/pid")).read_text()))
        assert sweep.wait(60) != 0
        wait_for(lambda: not alive(sweep.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(sweep.pid, signal.SIGKILL)
    assert list(tmp_path.glob("here/*/interrupted"))


def alive(group: int) -> bool:
    """True if a process of the group is."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_batch_with_a_failure_does_not_end_the_sweep(sweep, here, tmp_path):
    _, error = sweep("seed=9,0", "hydra.sweeper.max_batch_size=1", "hydra.sweep.dir=here")
    assert isinstance(error, InvalidJob) and len(folders(tmp_path / "here")) == 1


HERE = ["hydra.sweep.dir=here", "+where=${hydra:sweep.dir}"]


def test_a_finished_run_is_known_by_its_config_and_never_written_over(sweep, here, tmp_path):
    def seeds() -> dict[str, int]:
        return {f.name: yaml.safe_load((f / "config.yaml").read_text())["seed"] for f in folders(tmp_path / "here")}

    assert sweep("seed=0,1", *HERE)[1] is None
    shown, error = sweep("seed=5,1,0", *HERE)
    assert error is None and shown.count("is already finished") == 2
    assert seeds() == {"0": 0, "1": 1, "2": 5}
    assert all(len(processes(folder)) == 1 for folder in folders(tmp_path / "here"))
    shown, _ = sweep("seed=0", "steps=7", *HERE)
    assert "is already finished" not in shown and len(seeds()) == 4, "another config is another run"
    # What an interrupted run said of its outcome does not outlive the next attempt.
    (tmp_path / "here/1/summary.json").write_text('{"status": "interrupted"}')
    (tmp_path / "here/0/summary.json").write_text('{"status": "fin')
    sweep("seed=0,1", *HERE)
    assert [len(processes(tmp_path / "here" / name)) for name in ("0", "1")] == [2, 2]


def test_a_folders_name_may_be_interpolated(sweep, here, tmp_path):
    for _ in range(2):
        shown, error = sweep("seed=0,1", "hydra.sweep.dir=here", r"hydra.sweep.subdir='run_${hydra:job.num}'")
        assert error is None
    assert shown.count("is already finished") == 2
    assert [folder.name for folder in folders(tmp_path / "here")] == ["run_0", "run_1"]


def test_identical_jobs_do_not_share_a_folder(sweep, here, tmp_path):
    for attempt in (1, 2):
        sweep("seed=8,8", "hydra.sweep.dir=here")
        assert [len(processes(tmp_path / "here" / name)) for name in ("0", "1")] == [attempt, attempt]


def test_a_finished_run_is_known_without_hydras_own_files(sweep, here, tmp_path):
    bare = ["hydra.output_subdir=null", "hydra.sweep.dir=here"]
    sweep("seed=0,1", *bare)
    shown, _ = sweep("seed=5,1", *bare)
    assert shown.count("is already finished") == 1 and len(folders(tmp_path / "here")) == 3


def test_a_job_whose_folder_cannot_be_named_fails_alone(sweep, here, tmp_path):
    subdir = r"hydra.sweep.subdir='clip_${algo.clip}'"
    shown, error = sweep("algo=grpo,expert_iteration", "hydra.sweep.dir=here", subdir)
    assert isinstance(error, InvalidJob) and "job 2 failed: Interpolation key 'algo.clip' not found" in shown
    assert len(folders(tmp_path / "here")) == 1


def test_a_value_that_cannot_be_resolved_is_a_wrong_config(sweep, here):
    _, error = sweep("steps=${nothing}", "hydra.sweep.dir=here")
    assert isinstance(error, InvalidJob) and "'nothing' not found" in str(error)


def test_a_sweep_of_what_cannot_be_enumerated_has_no_completion(sweep, here, tmp_path):
    with pytest.raises(HydraException):
        sweep("seed=interval(0,1)", "hydra.sweep.dir=here")
    assert not (tmp_path / "here").exists()


PLACE = r"hydra.sweep.dir='it\'s, here'"


def test_the_command_that_repeats_a_job_survives_a_shell(sweep, here, tmp_path):
    """Its words, taken apart by a shell, make the same config; what concerns only the sweep is not among them."""
    shown, _ = sweep(
        "seed=9", "hydra/launcher=process", PLACE, "hydra.verbose=false",
        "task.operations=[add,subtract]", "cache='a \"quoted\" $folder'",
    )  # fmt: skip
    words = shlex.split(shown[shown.index("    rlbench seed=9") :].splitlines()[0])
    assert words[0] == "rlbench" and words[-1] == "hydra.verbose=false" and not [w for w in words if "sweep" in w]
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        again = GlobalHydra.instance().config_loader().load_configuration("config", words[1:], run_mode=RunMode.RUN)
    assert again.cache == 'a "quoted" $folder' and again.task.operations == ["add", "subtract"] and again.seed == 9
    resumed = shlex.split(shown[shown.index("    rlbench -m") :].splitlines()[0])
    assert resumed[-1] == PLACE and (tmp_path / "it's, here").is_dir()


def test_the_command_that_completes_a_sweep_keeps_interpolations(sweep, here, tmp_path):
    """They have another value in every job."""
    shown, _ = sweep("seed=9,0", "warm_start.steps=${seed}", "hydra.sweep.dir=here")
    assert "    rlbench -m seed=9,0 'warm_start.steps=${seed}' hydra.sweep.dir=here" in shown.splitlines()
    assert yaml.safe_load((tmp_path / "here/1/config.yaml").read_text())["warm_start"]["steps"] == 0


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["hydra/launcher=joblib"], "joblib"),
        (["hydra/launcher=submitit"], "submitit"),
        (["hydra/launcher=ray"], "ray"),
        (["hydra/sweeper=optuna"], "optuna"),
    ],
)
def test_a_library_that_is_not_there_is_one_line(sweep, monkeypatch, words, name):
    monkeypatch.setitem(sys.modules, name, None)
    _, error = sweep(*words, "seed=0,1")
    place = words[0].split("=")[0]
    assert str(error) == f"{place}={name}: needs a library that is not installed: pip install 'rlbench[{name}]'"


@pytest.mark.parametrize("n_jobs", ["0", "two"])
def test_a_wrong_number_of_jobs_is_one_line(sweep, n_jobs):
    _, error = sweep("hydra/launcher=joblib", f"hydra.launcher.n_jobs={n_jobs}", "seed=0,1", "hydra.sweep.dir=here")
    assert isinstance(error, ConfigError) and str(error).startswith(f"hydra.launcher.n_jobs={n_jobs}: ")


SEARCH = [
    "hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2",
    "optimizer.learning_rate=tag(log, interval(1e-4, 1e-1))", "hydra.sweep.dir=here",
]  # fmt: skip


def test_a_search_finds_its_best_and_says_how_to_run_it(sweep, here, tmp_path):
    shown, error = sweep(*SEARCH, "trials=3", "algo=ppo")
    found = json.loads((tmp_path / "here/search.json").read_text())
    values = [trial["accuracy_after"] for trial in found["trials"]]
    assert error is None and len(values) == 6
    assert found["best"]["accuracy_after"] == max(values) and len(set(values)) > 3
    for trial in found["trials"]:
        rate = float(trial["settings"][0].partition("=")[2])
        assert 1e-4 <= rate <= 1e-1 and trial["accuracy_after"] == pytest.approx(1 - abs(rate - 0.01) * 10)
    assert found["best"]["command"] == f"rlbench algo=ppo {found['best']['settings'][0]} trials=9", "3 and 6 more"
    assert found["best"]["command"] in shown
    # As if the search had been interrupted in its second batch: it asks for the same, and does what is left.
    (tmp_path / "here/search.json").unlink()
    (tmp_path / "here/3/summary.json").unlink()
    shown, _ = sweep(*SEARCH, "trials=3", "algo=ppo")
    assert shown.count("is already finished") == 5
    assert [t["settings"] for t in json.loads((tmp_path / "here/search.json").read_text())["trials"]] == [
        t["settings"] for t in found["trials"]
    ]


def test_a_trial_is_the_mean_of_its_seeds_and_a_failed_one_has_no_value(sweep, here, tmp_path):
    sweep(*SEARCH, "hydra.sweeper.n_trials=1", "hydra.sweeper.seeds=[0,1]")
    (trial,) = json.loads((tmp_path / "here/search.json").read_text())["trials"]
    assert [Path(run).name for run in trial["runs"]] == ["0", "1"] and trial["accuracy_after"] is not None
    shown, error = sweep(*SEARCH, "hydra.sweeper.n_trials=1", "hydra.sweeper.seeds=[0,8]")
    assert json.loads((tmp_path / "here/search.json").read_text())["best"] is None
    assert isinstance(error, JobFailed) and "none of 1 trials has a value" in shown


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["hydra.sweeper.direction=up"], "hydra.sweeper.direction=up: input should be 'maximize' or 'minimize'"),
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: input should be greater than or equal to 1"),
        (["seed=0,1"], "seed=0,1: hydra.sweeper.seeds=[0,1] takes the mean over seeds"),
        (["optimizer.learning_rate=0.1"], "hydra/sweeper=optuna: nothing to search"),
        (
            ["hydra.sweeper.objective=acuracy_after", "hydra.sweeper.n_trials=1"],
            "hydra.sweeper.objective=acuracy_after: no number of summary.json or ledger.json; nearest: accuracy_after",
        ),
    ],
)
def test_a_wrong_search_is_one_line(sweep, here, words, line):
    _, error = sweep(*SEARCH, *words)
    assert isinstance(error, ConfigError) and str(error).startswith(line)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ("interval(0.5, 2)", "FloatDistribution(high=2.0, log=False, low=0.5, step=None)"),
        ("tag(log, interval(1e-4, 0.1))", "FloatDistribution(high=0.1, log=True, low=0.0001, step=None)"),
        ("int(interval(2, 9))", "IntDistribution(high=9, log=False, low=2, step=1)"),
        ("tag(log, int, interval(1, 64))", "IntDistribution(high=64, log=True, low=1, step=1)"),
        ("range(1, 10, 2)", "IntDistribution(high=9, log=False, low=1, step=2)"),
        ("range(3)", "IntDistribution(high=2, log=False, low=0, step=1)"),
        ("range(0.0, 1.0, 0.25)", "FloatDistribution(high=0.75, log=False, low=0.0, step=0.25)"),
        ("choice(4, 8)", "CategoricalDistribution(choices=('4', '8'))"),
        ("sgd,adamw", "CategoricalDistribution(choices=('sgd', 'adamw'))"),
    ],
)
def test_a_search_space_is_written_in_hydras_words(space, expected):
    import optuna
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from rlbench.multirun.search import OptunaSweeper

    sweeper = OptunaSweeper.__new__(OptunaSweeper)
    sweeper.optuna = optuna
    (override,) = OverridesParser.create().parse_overrides([f"key={space}"])
    assert str(sweeper.distribution(override)) == expected


@pytest.mark.parametrize("space", ["interval(1, 0)", "range(9, 2, -2)", "tag(log, interval(0, 1))"])
def test_a_space_with_nothing_in_it_is_one_line(sweep, here, tmp_path, space):
    _, error = sweep(*SEARCH, f"optimizer.learning_rate={space}")
    assert isinstance(error, ConfigError) and str(error).startswith(f"optimizer.learning_rate={space}: `low")
    assert not (tmp_path / "here").exists()


ONE_BY_ONE = [
    pytest.param([], id="process"),
    pytest.param(["hydra/launcher=joblib"], id="joblib", marks=pytest.mark.slow),
    pytest.param(
        ["hydra/launcher=submitit", "hydra.launcher.cluster=local", "hydra.sweeper.max_batch_size=1"],
        id="submitit",
        marks=pytest.mark.slow,
    ),
    pytest.param(["hydra/launcher=ray", "+hydra.launcher.init.num_cpus=1"], id="ray", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("launcher", ONE_BY_ONE)
def test_a_sweep_that_was_interrupted_is_completed_by_the_command_that_it_prints(cache, tmp_path, launcher):
    # Long enough for Ctrl-C to come in the middle of a run.
    words = command(cache, "-m", "seed=0,1,2", *launcher, *TINY, "steps=150", "hydra.sweep.dir=here")
    first = subprocess.Popen(words, **settings(tmp_path), stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_for(lambda: folders(tmp_path) and running(tmp_path / "here"))
        os.kill(first.pid, signal.SIGINT)
        shown, _ = first.communicate(timeout=60)
        assert first.returncode == 130
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
    statuses = {f.name: json.loads((f / "summary.json").read_text())["status"] for f in folders(tmp_path)}
    assert "finished" in statuses.values() and list(statuses.values()) != ["finished"] * 3
    done = {
        name: (tmp_path / "here" / name / "summary.json").stat().st_mtime_ns
        for name in statuses
        if statuses[name] == "finished"
    }
    resumed = shlex.split(shown[shown.index("  rlbench -m") :].splitlines()[0])
    again = forked.run(words[2], *resumed[1:], **settings(tmp_path))
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is already finished") == len(done)
    for name, when in done.items():
        assert (tmp_path / "here" / name / "summary.json").stat().st_mtime_ns == when
    assert [json.loads((f / "summary.json").read_text())["status"] for f in folders(tmp_path)] == ["finished"] * 3
    assert again.stdout[again.stdout.index("algorithm") : again.stdout.index("what it cost")].count("grpo ") == 3
