"""A checkpoint is complete or absent, known to be as it was written, and of this run."""

import contextlib
import json
import logging
import shutil
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from rlbench import crashes
from rlbench.checkpoint import Checkpoints, Packed, by_name, folders, refilled
from rlbench.types import ConfigError

ABOUT = {"rlbench": "1", "schema": 4, "config": {"seed": 0, "task.digits": 2}, "machine": {"jax": "1"}}
ARRAYS = {"learner/w": np.arange(6, dtype=np.float32).reshape(2, 3), "learner/count": np.int32(3)}


def checkpoints(folder, keep=2, **about):
    return Checkpoints(folder, keep, ABOUT | about)


def written(folder, *steps, accuracies=()):
    """Checkpoints of some steps, with accuracies of the first."""
    made = checkpoints(folder)
    for step, accuracy in zip(steps, [*accuracies, *[None] * len(steps)], strict=False):
        made.save(step, ARRAYS, Packed.of({"step": step}, "run").pickled, accuracy=accuracy)
        made.wait()
    made.close()
    return folders(made.folder)


def test_it_comes_back_as_it_was(tmp_path):
    content = {
        "list": [np.arange(100_000), jnp.ones(3)],
        "objects": np.array([None, "a"], object),
        "empty": np.zeros(0),
    }
    packed = Packed.of(content, "run")
    made = checkpoints(tmp_path)
    made.save(7, ARRAYS | packed.arrays, packed.pickled, accuracy=0.5)
    made.close()
    found = checkpoints(tmp_path).newest()
    arrays = found.arrays()
    assert found.step == 7 and arrays.keys() == {*ARRAYS, "run/0000", "run/0001"}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype
    back = found.rest(arrays)
    for mine, theirs in zip(content["list"], back["list"], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert back["objects"].tolist() == [None, "a"] and back["empty"].shape == (0,)
    assert found.arrays(["learner/w"]).keys() == {"learner/w"}


def damage(folder, how):
    path = next(path for path in sorted(folder.rglob(how[0])) if path.is_file() and path.stat().st_size)
    content = path.read_bytes()
    if how[1] == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how[1] == "altered":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        path.unlink()
    return path.name


@pytest.mark.parametrize("what", ["truncated", "altered", "gone"])
@pytest.mark.parametrize("file", ["checkpoint.json", "rest.pickle", "arrays/d/*", "_METADATA"])
def test_a_damaged_one_is_named_and_the_one_before_is_taken(tmp_path, caplog, file, what):
    first, last = written(tmp_path, 5, 10)
    name = damage(last, (file, what))
    assert checkpoints(tmp_path).newest().folder == first
    (line,) = caplog.messages
    assert f"{last} is damaged" in line and name in line


def test_one_that_was_not_finished_is_none(tmp_path):
    (first,) = written(tmp_path, 5)
    shutil.copytree(first, first.with_name(".step-000010"))
    assert checkpoints(tmp_path).newest().step == 5
    assert [path.name for path in first.parent.iterdir()] == [first.name], "and it is removed"


@pytest.mark.parametrize(
    ("about", "line"),
    [
        ({"config": {"seed": 1, "task.digits": 2}}, r"^seed=1: as in the run that .*step-000005 is of: 0"),
        ({"config": {"seed": 0}}, r"^task.digits=None: as in the run that .* is of: 2"),
        ({"rlbench": "2"}, "a checkpoint of rlbench with rlbench=2, not 1"),
        ({"schema": 5}, "a checkpoint of rlbench with schema=5, not 4"),
    ],
)
def test_one_of_another_config_or_version_is_refused_by_the_first_key_that_differs(tmp_path, about, line):
    written(tmp_path, 5)
    with pytest.raises(ConfigError, match=line):
        checkpoints(tmp_path, **about).newest()


def test_another_machine_is_said(tmp_path, caplog):
    written(tmp_path, 5)
    assert checkpoints(tmp_path, machine={"jax": "2"}).newest().step == 5
    assert caplog.messages == ["the run goes on with jax=2 instead of 1: last digits may differ"]


def test_arrays_of_another_model_are_refused_by_name():
    arrays = by_name({"policy": {"w": np.ones((2, 3), np.float32)}}, "learner")
    like = {"policy": {"w": np.zeros((2, 4), np.float32)}}
    with pytest.raises(ConfigError, match=r"learner/policy/w.*float32\[2, 4\].*has float32\[2, 3\]"):
        refilled(like, arrays, "learner")
    with pytest.raises(ConfigError, match="has nothing"):
        refilled({"critic": np.zeros(1)}, arrays, "learner")


def test_the_newest_and_the_best_are_kept(tmp_path):
    made = written(tmp_path, 1, 2, 3, 4, 5, accuracies=[0.5, 0.7, 0.7, 0.6])
    assert [path.name for path in made] == ["step-000003", "step-000004", "step-000005"]
    assert checkpoints(tmp_path).newest().step == 5


def test_a_damaged_one_is_not_kept_for_its_number(tmp_path):
    """After a run went on from an earlier one, which then has the newest that is of use."""
    _, last = written(tmp_path, 4, 6)
    damage(last, ("rest.pickle", "altered"))
    again = checkpoints(tmp_path, keep=1)
    assert again.newest().step == 4
    again.save(5, ARRAYS, b"")
    again.close()
    assert [path.name for path in folders(again.folder)] == ["step-000005"]


def test_arrays_without_a_number_come_back(tmp_path):
    tree = {"w": np.ones(2, np.float32), "none": np.zeros((0, 3), np.float32)}
    made = checkpoints(tmp_path)
    made.save(1, by_name(tree, "learner"), b"")
    made.close()
    back = refilled(tree, checkpoints(tmp_path).newest().arrays(), "learner")
    assert back["none"].shape == (0, 3) and back["w"].tolist() == [1, 1]


def test_a_disk_that_is_full_costs_a_checkpoint_and_nothing_else(tmp_path, caplog, monkeypatch):
    written(tmp_path, 5)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlbench.checkpoint.digest", full)
    made = checkpoints(tmp_path)
    made.save(10, ARRAYS, b"")
    made.wait()
    monkeypatch.undo()
    assert caplog.messages == ["there is no checkpoint of step 10: [Errno 28] No space left on device"]
    assert [path.name for path in made.folder.iterdir()] == ["step-000005"]
    assert made.newest().step == 5


ROW = {"step": 0, "wall_seconds": 1.0, "flops": 100.0, "flops/phase/warm_start": 60.0, "rollouts": 0}


def test_a_draft_goes_also_while_others_of_its_threads_write_on(tmp_path, monkeypatch):
    """Files come for half a second after the error, one a millisecond."""
    draft, writers = tmp_path / "checkpoints/.step-000010", []

    def write_on():
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            with contextlib.suppress(FileNotFoundError):
                draft.mkdir(exist_ok=True)
                (draft / f"{time.monotonic()}").touch()
            time.sleep(0.001)

    def full(path):
        writers.append(threading.Thread(target=write_on))
        writers[-1].start()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlbench.checkpoint.digest", full)
    made = checkpoints(tmp_path)
    made.save(10, ARRAYS, b"")
    made.wait()
    for writer in writers:
        writer.join()
    made.close()
    assert writers and not [*(tmp_path / "checkpoints").iterdir()]


def lines(folder, *rows, torn=""):
    text = [json.dumps(ROW | row) + "\n" for row in rows]
    (folder / "metrics.jsonl").write_text("".join(text) + torn)
    return len(text[0])


def test_what_a_crash_cost_is_what_stands_beyond_the_checkpoint(tmp_path):
    size = lines(tmp_path, {}, {"step": 1, "wall_seconds": 3.0, "flops": 150.0, "rollouts": 8}, torn='{"step": 2, "w')
    crashes.enter(tmp_path, size)
    crashes.enter(tmp_path, size)
    assert crashes.lost(tmp_path) == (1, 1, 2.0, 50.0, 8), "once, though it crashed before the lines were removed"


def test_without_a_checkpoint_all_is_lost_but_the_warm_start(tmp_path):
    lines(tmp_path, {}, {"step": 4, "wall_seconds": 3.0, "flops": 150.0, "rollouts": 8})
    crashes.enter(tmp_path, 0)
    assert crashes.lost(tmp_path) == (1, 4, 3.0, 90.0, 8)


def test_nothing_is_lost_where_nothing_stands_beyond(tmp_path):
    crashes.enter(tmp_path, 0)
    crashes.enter(tmp_path, lines(tmp_path, {}))
    assert crashes.lost(tmp_path) == crashes.Lost() and not (tmp_path / crashes.FILE).exists()


def test_warnings_are_of_this_module(tmp_path, caplog):
    (only,) = written(tmp_path, 5)
    damage(only, ("checkpoint.json", "gone"))
    assert checkpoints(tmp_path).newest() is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
