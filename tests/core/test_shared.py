"""Runs beside each other in one process: the same bits as alone, exact shares, and each ends by itself."""

import gc
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import chex
import jax
import jax.numpy as jnp
import pytest

from rlbench.accounting.memory import MemoryMeter, live_bytes
from rlbench.accounting.shared import Shared
from rlbench.accounting.timeline import Activity, Timeline
from rlbench.accounting.turns import Turns
from rlbench.devices import CompiledFunction, Devices
from rlbench.experiment import run
from rlbench.interrupts import UNINTERRUPTED
from rlbench.types import Diverged, Phase, Stalled
from tests.core.test_asynchrony import Paid
from tests.core.test_ctrl_c import Told
from tests.core.test_resuming import EVERY, Crash, Crashing, lines, outcome, params


def together(plans, folder, shared):
    """Runs plans on threads. Returns what each raised, or its summary."""

    def carry(number, plan):
        threading.current_thread().name = f"job {number}"
        with UNINTERRUPTED.carrying(lambda error: None):
            try:
                return run(plan, folder / str(number), shared=shared)
            except BaseException as error:
                return error

    for number in range(len(plans)):
        (folder / str(number)).mkdir(parents=True)
    with ThreadPoolExecutor(len(plans)) as threads:
        return [*threads.map(carry, range(len(plans)), plans)]


def seeds_of(plan_of, algo, *words, task="arithmetic", seeds=3):
    def made(seed):
        plan = plan_of(algo, *EVERY, "steps=5", f"seed={seed}", *words, task=task)
        return plan._replace(task=Paid(plan.task)) if task == "arithmetic" else plan

    return [made(seed) for seed in range(seeds)]


@pytest.mark.parametrize(
    ("algo", "task", "words"),
    [
        ("ppo", "arithmetic", ["batch.minibatches=2", "optimizer=muon", "warm_start.steps=4"]),
        ("expert_iteration", "arithmetic", []),
        ("grpo", "code", ["acting.slots=8"]),
    ],
)
def test_each_computes_what_it_computes_alone(plan_of, tmp_path, algo, task, words):
    ended = together(seeds_of(plan_of, algo, *words, task=task), tmp_path / "together", Shared(at_once=2))
    assert [one["status"] for one in ended] == ["finished"] * 3
    for seed, plan in enumerate(seeds_of(plan_of, algo, *words, task=task)):
        alone, among = tmp_path / f"alone{seed}", tmp_path / "together" / str(seed)
        alone.mkdir()
        run(plan, alone)
        chex.assert_trees_all_equal(params(among), params(alone))
        assert lines(among) == lines(alone)
        assert outcome(among) == outcome(alone)
        assert (among / "trajectories.jsonl").read_text() == (alone / "trajectories.jsonl").read_text()


@pytest.mark.parametrize("runner", ["async", "inflight"])
def test_what_arrives_by_chance_decides_nothing_else(plan_of, tmp_path, runner):
    """Alone, a replay decides as chance did beside others."""
    words = f"runner={runner}", "acting.chunk=1", "acting.slots=8"
    together(seeds_of(plan_of, "async_grpo", *words), tmp_path, Shared())
    for seed in range(3):
        among, alone = tmp_path / str(seed), tmp_path / f"alone{seed}"
        alone.mkdir()
        run(seeds_of(plan_of, "async_grpo", *words, f"runner.replay={among}/arrivals.jsonl")[seed], alone)
        chex.assert_trees_all_equal(params(among), params(alone))
        assert outcome(among) == outcome(alone)


def test_one_goes_on_from_its_checkpoint_beside_others(plan_of, tmp_path):
    crashed = [plan._replace(trackers=[Crashing(3)]) for plan in seeds_of(plan_of, "grpo", seeds=1)]
    (tmp_path / "together" / "0").mkdir(parents=True)
    with pytest.raises(Crash):
        run(crashed[0], tmp_path / "together" / "0")
    (tmp_path / "rest").mkdir()
    (tmp_path / "together" / "0").rename(tmp_path / "begun")

    def carry(number, plan, folder):
        with UNINTERRUPTED.carrying(lambda error: None):
            return run(plan, folder, shared=shared)

    shared, plans = Shared(), seeds_of(plan_of, "grpo", seeds=2)
    with ThreadPoolExecutor(2) as threads:
        [*threads.map(carry, range(2), plans, [tmp_path / "begun", tmp_path / "rest"])]
    (tmp_path / "alone").mkdir()
    run(seeds_of(plan_of, "grpo", seeds=1)[0], tmp_path / "alone")
    chex.assert_trees_all_equal(params(tmp_path / "begun"), params(tmp_path / "alone"))
    assert lines(tmp_path / "begun") == lines(tmp_path / "alone")


def test_programs_are_compiled_once(plan_of, tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr("rlbench.start.cached", lambda folder, content, sources, like, make: make())
    compiled = CompiledFunction._compile
    monkeypatch.setattr(
        CompiledFunction, "_compile", lambda self, given: (names.append(self.name), compiled(self, given))[1]
    )
    together(seeds_of(plan_of, "grpo", "warm_start.steps=4", seeds=1), tmp_path / "one", Shared())
    one, names[:] = sorted(names), []
    together(seeds_of(plan_of, "grpo", "warm_start.steps=4"), tmp_path / "three", Shared())
    assert sorted(names) == one


def test_a_run_that_asks_twice_for_one_use_of_a_function_has_programs_of_its_own():
    def added(x, number):
        return CompiledFunction(devices, lambda x: x + number, phase=Phase.SCORE)(x)

    devices = Devices(jax.devices()[:1], programs={})
    assert [int(added(jnp.int32(1), number)) for number in (1, 2)] == [2, 3]


@pytest.mark.parametrize("at_once", [1, 3])
def test_seconds_are_shared_out_and_none_is_counted_twice(plan_of, tmp_path, at_once):
    began = time.perf_counter()
    together(seeds_of(plan_of, "grpo", "steps=20", "warm_start.steps=4"), tmp_path, Shared(at_once))
    wall = time.perf_counter() - began
    times = [json.loads((tmp_path / str(seed) / "ledger.json").read_text())["time"] for seed in range(3)]
    busy = ("actor_and_learner", "actor_only", "learner_only", "evaluation_only")
    assert 0 < sum(one["devices"][state] for one in times for state in busy) < wall
    for one in times:
        assert one["devices"]["waiting_for_other_runs"] > 0
        own = one["wall"] - one["devices"]["waiting_for_other_runs"]
        assert one["idle_fraction"] == pytest.approx(one["idle"] / own) and 0 < one["idle_fraction"] < 1


def test_memory_is_what_one_takes_and_what_all_take(plan_of, tmp_path):
    wide = "model.width=64", "model.hidden=256", "batch.rollouts=64"
    (tmp_path / "alone").mkdir()
    gc.collect()
    others = live_bytes(jax.devices()[0])  # of other tests
    run(seeds_of(plan_of, "grpo", *wide)[0], tmp_path / "alone")
    together(seeds_of(plan_of, "grpo", *wide), tmp_path / "together", Shared())

    def memory(folder):
        return json.loads((folder / "ledger.json").read_text())["memory"]

    alone = memory(tmp_path / "alone")["device_peak"] - others
    each = [memory(tmp_path / "together" / str(seed)) for seed in range(3)]
    assert [one["device_peak"] for one in each] == pytest.approx([alone] * 3, rel=0.1)
    assert max(one["process_peak"] for one in each) > 1.5 * alone


def test_one_that_diverges_ends_alone(plan_of, tmp_path):
    plans = seeds_of(plan_of, "grpo")

    class Diverging(Crashing):
        def log(self, row):
            if row["step"] == self.step:
                raise Diverged(self.step, "loss", float("nan"))

    plans[1] = plans[1]._replace(trackers=[Diverging(2)])
    ended = together(plans, tmp_path, Shared())
    assert isinstance(ended[1], Diverged) and [ended[0]["status"], ended[2]["status"]] == ["finished"] * 2
    summaries = [json.loads((tmp_path / str(seed) / "summary.json").read_text()) for seed in range(3)]
    assert [one["status"] for one in summaries] == ["finished", "diverged", "finished"]


def test_one_that_stalls_ends_alone(plan_of, tmp_path):
    plans = seeds_of(plan_of, "grpo", "runner.watchdog_seconds=5.5")
    released = threading.Event()
    plans[1] = plans[1]._replace(task=Told(plans[1].task, lambda: released.wait(60)))
    try:
        ended = together(plans, tmp_path, Shared())
    finally:
        released.set()
    assert isinstance(ended[1], Stalled) and "the actor is verifying" in str(ended[1])
    assert [ended[0]["status"], ended[2]["status"]] == ["finished"] * 2


@pytest.mark.parametrize(("free", "fits"), [(0, 1), (1000, 1), (1400, 2), (10_400, 12)])
def test_there_are_as_many_as_memory_has_room_for(free, fits):
    """A run takes 740 bytes, and 500 once for all."""
    shared = Shared()
    shared.ready(own=740, temporaries=500, free=free)
    assert shared.fits == fits
    shared.ready(own=740, temporaries=500, free=10**9)
    assert shared.fits == fits, "the first run says it"


def test_one_run_goes_on_alone_until_it_is_known_how_many_fit():
    shared, inside, most, leave = Shared(), [], [], threading.Event()
    shared.made_start(peak=100, free=1000)
    assert shared.starts == 10 and shared.fits is None

    def go(number):
        with shared.room():
            inside.append(number)
            most.append(len(inside))
            assert leave.wait(10)
            inside.remove(number)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    assert most == [1]
    shared.ready(own=100, temporaries=0, free=112)
    while len(most) < 2:
        time.sleep(0.01)
    time.sleep(0.2)
    assert most == [1, 2]
    leave.set()
    for thread in threads:
        thread.join(10)
    assert max(most) == 2 and len(most) == 4


def test_a_first_run_that_fails_lets_the_next_one_in():
    shared = Shared()
    with pytest.raises(ZeroDivisionError), shared.room():
        raise ZeroDivisionError
    with shared.room():
        assert shared.fits is None


def test_temporaries_are_those_of_each_turn():
    shared = Shared(at_once=3)
    shared.ready(own=740, temporaries=500, free=10_400)
    assert shared.fits == 11


def test_a_second_is_shared_by_those_that_compute_in_it():
    """One computes for 1 s alone, for 2 s beside another, and for 1 s alone again; then there is a pause of 5 s."""
    now = [0.0]
    turns = Turns(2, lambda: now[0])
    one, other = (Timeline(lambda: now[0], turns.share) for _ in range(2))

    def compute(timeline, seconds):
        with turns.taken(pytest.fail), timeline.during("learner", Activity.COMPUTING):
            now[0] += seconds

    with turns.taken(pytest.fail), one.during("learner", Activity.COMPUTING):
        now[0] += 1
        beside = threading.Thread(target=compute, args=(other, 2))
        beside.start()
        beside.join(10)
        now[0] += 1
    now[0] += 5
    for timeline, computing, queueing in ((one, 3.0, 1.0), (other, 1.0, 1.0)):
        seconds = timeline.seconds()
        assert seconds["devices"]["learner_only"] == seconds["learner"]["computing"] == computing
        assert seconds["devices"]["waiting_for_other_runs"] == seconds["learner"]["queueing"] == queueing
        assert sum(seconds["devices"].values()) == now[0]


def test_turns_are_taken_in_order():
    turns, order = Turns(), []
    gate = threading.Event()

    def take(number):
        with turns.taken(waiting_of(number)):
            order.append(number)

    class waiting_of:  # noqa: N801
        def __init__(self, number):
            self.number = number

        def __call__(self):
            return self

        def __enter__(self):
            order.append(f"{self.number} waits")
            gate.set()

        def __exit__(self, *_):
            pass

    threads = []
    with turns.taken(lambda: pytest.fail("there is nobody to wait for")), turns.taken(waiting_of("inner")):
        for number in range(3):
            gate.clear()
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            assert gate.wait(10)
    for thread in threads:
        thread.join(10)
    assert order == ["0 waits", "1 waits", "2 waits", 0, 1, 2]


def test_a_turn_is_passed_on_by_one_that_fails():
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.taken(lambda: pytest.fail("free")):
        raise ZeroDivisionError
    with turns.taken(lambda: pytest.fail("free")):
        pass


def test_no_array_of_another_run_is_counted():
    shared, device = Shared(), jax.devices()[0]
    one, other = MemoryMeter(device, shared), MemoryMeter(device, shared)
    kept = one.note(jnp.zeros(1000))
    other.note(jnp.zeros(3000))  # and nobody keeps it
    assert (one.own(), other.own()) == (kept.nbytes, 0)
    one.observe(500)
    assert one.peak() == kept.nbytes + 500 <= one.process_peak()
