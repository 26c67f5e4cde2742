"""The ledger: what is useful, whose fate pays for it, and totals that have to reconcile."""

import copy
import itertools
import json
import sys
import threading
from collections import Counter

import jax
import numpy as np
import pytest

from rlbench.accounting import peaks
from rlbench.accounting.account import Pass, Room, Spent, Verification, attended
from rlbench.accounting.ledger import Gain, Ledger
from rlbench.accounting.peaks import PEAKS, Impossible, Peak, peak_of, reached
from rlbench.accounting.reconcile import DoesNotReconcile, check
from rlbench.accounting.tally import Tally
from rlbench.accounting.timeline import Timeline
from rlbench.accounting.useful import useful_flops
from rlbench.types import Fate, Phase, Size, Status, Step
from tests.fakes import Copy, TwoTurns, player_of, problems_of, small_model

SIZE = Size(body=100, attention=8, head=40)
PEAK = Peak(1e12, "table: of the test")
JUDGED = Verification(calls=4, cpu_seconds=0.5, wall_seconds=1.0, queue_seconds=0.25, timeouts=1)


class TestUseful:
    def test_a_prompt_shared_by_a_group_and_its_completions(self):
        """A prompt of 3, for two rows; completions of 2 and 4, whose last tokens nobody reads to say them."""
        prefill = pass_of(Phase.PREFILL, 5, [3], 0, 1, copies=2)
        decode = pass_of(Phase.DECODE, 2 * 3, [1, 3], [3, 3], [1, 3])
        counted = useful_flops([prefill, decode], {"policy": SIZE}, ran(prefill, decode))
        # Tokens see 1, 2 and 3 of the prompt; the first row's one token sees 4; the second's three see 4, 5 and 6.
        assert counted[Phase.PREFILL, "policy"] == 2 * 100 * 3 + 4 * 8 * (1 + 2 + 3) + 2 * 40
        assert counted[Phase.DECODE, "policy"] == 2 * 100 * 4 + 4 * 8 * (4 + 4 + 5 + 6) + 2 * 40 * 4

    def test_a_whole_row_costs_what_its_parts_do(self):
        """Scored in one pass, or prefilled and decoded: 3 tokens of prompt and a completion of 4."""
        prefill = pass_of(Phase.PREFILL, 5, [3], 0, 1)
        decode = pass_of(Phase.DECODE, 3, [3], [3], [3])
        score = pass_of(Phase.SCORE, 8, [6], 0, [4])
        passes = [prefill, decode, score]
        counted = useful_flops(passes, {"policy": SIZE}, ran(*passes))
        assert counted[Phase.PREFILL, "policy"] + counted[Phase.DECODE, "policy"] == counted[Phase.SCORE, "policy"]

    def test_backwards_costs_twice_and_only_what_ran_is_charged(self):
        train, back = (pass_of(phase, 8, [6], 0, [4]) for phase in (Phase.FORWARD, Phase.BACKWARD))
        executed = ran(train) | {(Phase.BACKWARD, "policy"): 1, (Phase.FORWARD, "reference"): 1}
        counted = useful_flops([train, back], dict.fromkeys(("policy", "reference", "critic"), SIZE), executed)
        assert counted[Phase.BACKWARD, "policy"] == 2 * counted[Phase.FORWARD, "policy"]
        assert set(counted) == set(executed), "a frozen network in a loss has no gradient"

    def test_long_contexts_do_not_overflow(self):
        long = pass_of(Phase.DECODE, 10**6, [30_000], [30_000], 0)
        seen = sum(range(30_001, 60_001))
        assert useful_flops([long], {"policy": Size(0, 1, 0)}, ran(long)) == {(Phase.DECODE, "policy"): 4 * seen}

    def test_a_transformer_knows_its_size(self):
        model = small_model(layers=3, width=16, heads=4, kv_heads=2, hidden=32)
        params = model.init(jax.random.key(0))
        layer = 16 * (16 + 2 * 8) + 16 * 16 + 16 * 64 + 32 * 16  # queries, keys and values; out; gate and up; down
        assert model.size(params) == Size(3 * layer, 3 * 16, 16 * 6)
        critic = model.resized(1, layers=1)
        assert model.size(critic.init(jax.random.key(0))) == Size(layer, 16, 16)
        assert model.size({"anything": params}) is None


def pass_of(phase, slots, fed, before, read, copies=1):
    """So many tokens of each row, after others that were in the cache."""
    fed = np.array(fed)
    return Pass(phase, slots, fed, attended(fed, np.array(before)), np.array(read), copies)


def ran(*passes):
    return Counter({(one.phase, "policy"): 1 for one in passes})


def test_passes_are_what_the_trajectories_say(devices):
    """In two turns with an observation between: everything is read once but each row's last token."""
    model = small_model()
    actor = player_of(model, TwoTurns(), devices)
    batch = actor.play(model.init(jax.random.key(0)), problems_of(TwoTurns(), 10), 2, first_id=0, version=0)
    spent, tally = actor.account.take(), batch.trajectories.tally
    by_row = sum(np.repeat(one.fed, one.copies) for one in spent.passes)
    np.testing.assert_array_equal(by_row, tally.tokens - 1)
    read = sum(int(np.broadcast_to(one.read, one.fed.shape).sum()) * one.copies for one in spent.passes)
    assert read == tally.completion.sum(), "an output for every token chosen"
    assert all((one.fed >= 0).all() and one.fed.sum() <= one.slots for one in spent.passes)
    # What a row's tokens see, each itself included, turn after turn: 1 + 2 + ... as in one pass.
    seen = sum(np.repeat(one.seen, one.copies) for one in spent.passes)
    np.testing.assert_array_equal(seen, (tally.tokens - 1) * tally.tokens // 2)
    assert {cell for cell in spent.flops if cell[1] == "policy"} == {("prefill", "policy"), ("decode", "policy")}
    assert actor.account.take().flops == {}, "what was taken is gone"


class ThreeTurns(TwoTurns):
    """Never over before its last turn."""

    bounds = TwoTurns.bounds._replace(turns=3)

    def step(self, state, completion):
        return Step(state, "cc=", 0.0, Status.OPEN)


def test_the_prefill_that_a_cache_saves_from_turn_to_turn_is_counted(devices):
    """A later turn would read again the prompt, and the completions and observations so far, but for the last token.

    That one, of a completion, is read with the observation, whether or not the cache goes on.
    """
    model = small_model()
    actor = player_of(model, ThreeTurns(), devices)
    batch = actor.play(model.init(jax.random.key(0)), problems_of(ThreeTurns(), 10), 2, first_id=0, version=0)
    spent, ledger, saved = actor.account.take(), ledger_of(), 0
    for mask in batch.rollouts.mask:
        _, *later = np.flatnonzero(np.diff(mask.astype(int)) == 1) + 1  # first tokens of completions
        saved += sum(begin - 3 - 1 for begin in later)  # an observation has 3
    ledger.acted(batch.trajectories.ids, spent)
    assert ledger.counts()["tokens"]["prefill_saved"] == saved
    assert sum(one.fed.sum() for one in spent.passes if one.phase == Phase.PREFILL) == 10 * 2 + 20 * 2 * (1 + 3)


def test_what_turns_did_not_read_again_adds_up():
    """Three answers: after 4 tokens, after 9, and after 6 of another rollout, each read with its observation of 3."""
    ledger = ledger_of()
    answers = pass_of(Phase.PREFILL, 12, [8, 4], 0, [2, 1])._replace(cached=(4 - 1) + (9 - 1) + (6 - 1))
    for _ in range(2):
        ledger.acted(np.array([3, 5]), Spent(Counter(), (answers,), Verification()))
    assert ledger.counts()["tokens"]["prefill_saved"] == 2 * 16
    assert ledger.row(0.0, {"devices": {}})["tokens/prefill_saved"] == 32
    assert whole_ledger().counts()["tokens"]["prefill_saved"] == 0, "where there is one turn"


def test_decoding_is_counted_by_its_trips(devices):
    """A batch that has ended leaves the loop, and what it did not do is not paid for."""
    model = small_model()
    params, actor = model.init(jax.random.key(0)), player_of(model, Copy(), devices, completion=6)
    cost = {}
    for index in range(20):
        batch = actor.play(params, problems_of(Copy(), 1), 1, first_id=index, version=0)
        cost[int(batch.trajectories.tally.completion.max()) - 1] = actor.account.take().flops["decode", "policy"]
    iterations = sorted(cost)
    assert len(iterations) > 2
    an_iteration = {(cost[more] - cost[fewer]) / (more - fewer) for fewer, more in itertools.pairwise(iterations)}
    assert len(an_iteration) == 1 and an_iteration.pop() > 2 * model.size(params).body


def tally_of(prompt, completion, **marks) -> Tally:
    rows = len(prompt)
    no = np.zeros(rows, bool)
    marked = {name: np.array(marks.get(name, no), bool) for name in ("truncated", "timed_out", "broke")}
    prompt, completion = np.array(prompt), np.array(completion)
    return Tally(prompt, completion, np.zeros(rows, int), prompt + completion, **marked)


def ledger_of(peak: Peak = PEAK) -> Ledger:
    sizes = {"policy": SIZE, "critic": SIZE}
    return Ledger(sizes, peak, Timeline(), devices=1, accelerator=False)


def ids_of(batch: int) -> np.ndarray:
    return 4 * batch + np.arange(4)


def act(ledger: Ledger, batch: int = 0) -> None:
    """Two problems, twice each; prompts of 3 and 1 tokens in 4 slots, completions of 2, 4, 3, 1 in 3 iterations."""
    passes = (
        pass_of(Phase.PREFILL, 8, [3, 1], 0, [1, 1], copies=2),
        pass_of(Phase.DECODE, 12, [1, 3, 2, 0], [3, 3, 1, 1], [1, 3, 2, 0]),
    )
    flops = Counter({(Phase.PREFILL, "policy"): 8000, (Phase.DECODE, "policy"): 12000})
    # The prompt's tokens go through once a problem; the ledger counts them once a row.
    ledger.acted(ids_of(batch), Spent(flops, passes, JUDGED))


def sample(ledger: Ledger, batch: int = 0) -> None:
    """The same, judged."""
    act(ledger, batch)
    tally = tally_of([3, 3, 1, 1], [2, 4, 3, 1], truncated=[0, 1, 0, 0], broke=[0, 0, 0, 1])
    ledger.judged(ids_of(batch), tally, 2)


def learn(ledger: Ledger, batch: int = 0) -> None:
    """Rows of 8, so that 7 positions are computed; the third row teaches nothing."""
    flops = Counter(
        {
            (Phase.SCORE, "critic"): 28000,
            (Phase.FORWARD, "policy"): 56000,
            (Phase.BACKWARD, "policy"): 112000,
            (Phase.OPTIMIZER, "policy"): 500,
        }
    )
    ledger.learned(ids_of(batch), np.array([True, True, False, False]), Room(0, 7), 2, Spent(flops, (), Verification()))


def whole_ledger() -> Ledger:
    ledger = ledger_of()
    ledger.warmed({"policy": 7000.0}, {"policy": 6000.0})
    evaluation = Counter({(Phase.PREFILL, "policy"): 300, (Phase.DECODE, "policy"): 100})
    ledger.evaluated(Spent(evaluation, (), Verification(calls=9)), seconds=0.0)
    sample(ledger)
    learn(ledger)
    return ledger


def test_operations_follow_the_fates_of_the_rollouts_they_were_spent_on():
    totals = whole_ledger().totals
    # A slot costs 1000 in every phase but training, whose two epochs take 56 slots: 1000 forwards, 2000 backwards.
    # Prompts are split over the group: 1.5 and 0.5 slots a row. Then 1, 3, 2 and 0 decoded; 4, 6, 3 and 1 scored,
    # and twice as many trained on.
    slots = {
        row: (prompt + decoded + scored, 2 * scored)
        for row, (prompt, decoded, scored) in enumerate([(1.5, 1, 4), (1.5, 3, 6), (0.5, 2, 3), (0.5, 0, 1)])
    }
    cost = {row: 1000 * once + 3000 * trained for row, (once, trained) in slots.items()}
    assert {fate: flops for fate, flops in totals.by_fate.items() if flops} == pytest.approx(
        {Fate.TRAINED: cost[0] + cost[1], Fate.ZERO_ADVANTAGE: cost[2], Fate.INFRASTRUCTURE: cost[3]}
    )
    assert totals.overhead == 7000 + 400 + 500
    assert totals.padding == pytest.approx(8000 + 12000 + 28000 + 168000 - sum(cost.values()))
    assert +totals.rollouts == {Fate.TRAINED: 2, Fate.ZERO_ADVANTAGE: 1, Fate.INFRASTRUCTURE: 1}
    assert +totals.tokens == {Fate.TRAINED: 5 + 7, Fate.ZERO_ADVANTAGE: 4, Fate.INFRASTRUCTURE: 2}
    assert totals.attributes == {"truncated": 1, "timed_out": 0}


def test_a_batch_is_charged_row_by_row_to_what_became_of_it():
    """Rollouts 0 and 6 were kept, one for nothing, and two rows are padding; the others were filtered out."""
    ledger = ledger_of()
    sample(ledger, 0)
    sample(ledger, 1)
    flops = Counter(
        {(Phase.SCORE, "policy"): 28000, (Phase.FORWARD, "policy"): 28000, (Phase.BACKWARD, "policy"): 56000}
    )
    ledger.settled(np.array([1, 2, 3, 4, 5, 7]), Fate.FILTERED)
    ids, teaches = np.array([0, 6, -1, -1]), np.array([True, False, False, False])
    ledger.learned(ids, teaches, Room(0, 7), 1, Spent(flops, (), Verification()))
    totals = ledger.totals
    assert +totals.rollouts == {
        Fate.TRAINED: 1,
        Fate.ZERO_ADVANTAGE: 1,
        Fate.FILTERED: 4,
        Fate.INFRASTRUCTURE: 2,
    }
    # Sampling cost a row 2500, 4500, 2500 and 500; scoring, forwards and backwards 4000 a token but the last.
    assert {fate: count for fate, count in totals.by_fate.items() if count} == pytest.approx(
        {
            Fate.TRAINED: 2500 + 4000 * 4,
            Fate.ZERO_ADVANTAGE: 2500 + 4000 * 3,
            Fate.FILTERED: 2 * 4500 + 2500 + 2500,
            Fate.INFRASTRUCTURE: 2 * 500,
        }
    )
    assert not len(totals.in_flight.ids)
    report_of(ledger)  # reconciles


def test_work_on_a_rollout_adds_up_whenever_it_is_done():
    """A completion of four tokens, sampled in three pieces between other rollouts that come and go in any order."""
    ledger = ledger_of()
    for ids, fed, before in (([7], [2], [0]), ([3, 7], [1, 1], [0, 2]), ([7, 5], [1, 2], [3, 0])):
        flops = Counter({(Phase.DECODE, "policy"): 400})
        one = pass_of(Phase.DECODE, 4, fed, before, fed)
        ledger.acted(np.array(ids), Spent(flops, (one,), Verification()))
        check(ledger.counts(), {}, 0.0)
    ledger.judged(np.array([7, 3]), tally_of([1, 1], [4, 1]), 2)
    ledger.settled(np.array([7]), Fate.FILTERED)
    assert ledger.totals.by_fate[Fate.FILTERED] == 100 * (2 + 1 + 1)
    with pytest.raises(DoesNotReconcile, match="tokens sampled"):
        ledger.judged(np.array([5]), tally_of([1], [1]), 1)
    ledger.end()
    assert ledger.totals.by_fate[Fate.STALE] == 100 * (1 + 2), "of one that was over and of one that was cut off"
    assert ledger.totals.padding == 100 * (2 + 2 + 1)
    check(ledger.counts(), {}, 0.0)


def test_a_rollout_without_an_entry_cannot_be_settled():
    ledger = ledger_of()
    sample(ledger)
    with pytest.raises(KeyError, match="not in flight"):
        ledger.settled(np.array([0, 9]), Fate.FILTERED)


def report_of(ledger: Ledger, gain: Gain | None = None) -> dict:
    seconds = ledger.timeline.seconds()
    return ledger.report(sum(seconds["devices"].values()), seconds, {}, gain, [])


def test_what_is_in_flight_is_no_loss_and_what_is_left_over_is_stale():
    ledger = whole_ledger()
    sample(ledger, 1)
    counts = ledger.counts()
    assert counts["rollouts"]["in_flight"] == 4 and counts["rollouts"]["by_fate"]["stale"] == 0
    check(counts, {}, 0.0)
    ledger.end()
    counts = ledger.counts()
    fates = counts["rollouts"]["by_fate"]
    assert counts["rollouts"]["in_flight"] == 0
    assert fates["stale"] == 3 and fates["infrastructure_failure"] == 1 + 1, "the first that applies"
    check(counts, {}, 0.0)
    sample(ledger, 2)
    assert ledger.counts() == counts, "after the end nothing is entered"


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ("executed FLOPs: by phase", "executed by_phase score"),
        ("executed FLOPs: by component", "executed by_component critic"),
        ("executed FLOPs: by fate", "executed by_fate trained"),
        ("executed FLOPs: by fate", "executed padding"),
        ("executed FLOPs: by fate", "executed overhead"),
        ("executed FLOPs: by phase", "executed total"),
        ("useful FLOPs: by phase", "useful by_phase decode"),
        ("useful FLOPs: by component", "useful by_component policy"),
        ("rollouts: by fate", "rollouts by_fate trained"),
        ("rollouts: by fate", "rollouts generated"),
        ("tokens: by fate", "tokens by_fate trained"),
        ("tokens: by fate", "tokens by_kind completion"),
    ],
)
def test_a_broken_identity_is_refused_by_name(entry, path):
    counts = whole_ledger().counts()
    check(counts, {}, 0.0)
    broken = copy.deepcopy(counts)
    *places, last = path.split()
    place = broken
    for name in places:
        place = place[name]
    place[last] += 1
    with pytest.raises(DoesNotReconcile, match=entry):
        check(broken, {}, 0.0)


@pytest.mark.parametrize("who", ["devices", "actor", "learner"])
def test_seconds_that_are_missing_are_refused_by_name(who):
    seconds = {"devices": {"a": 6.0, "b": 4.0}, "actor": {"c": 10.0}, "learner": {"d": 10.1}}
    counts = whole_ledger().counts()
    check(counts, seconds, 10.0)
    seconds[who] = {"a": 9.7}
    with pytest.raises(DoesNotReconcile, match=f"seconds: {who}"):
        check(counts, seconds, 10.0)


def test_tokens_that_went_through_no_network_are_refused():
    ledger = ledger_of()
    ledger.acted(ids_of(0), Spent(Counter(), (pass_of(Phase.PREFILL, 8, [3, 1], 0, [1, 1], copies=2),), JUDGED))
    with pytest.raises(DoesNotReconcile, match="tokens sampled"):
        ledger.judged(ids_of(0), tally_of([3, 3, 1, 1], [2, 4, 3, 1]), 2)


def test_an_entry_that_fails_leaves_nothing_behind():
    ledger = whole_ledger()
    sample(ledger, 1)
    before = ledger.counts()
    spent = Spent(Counter({(Phase.SCORE, "policy"): 100}), (), Verification())
    with pytest.raises(DoesNotReconcile, match="score: tokens, slots"):
        ledger.learned(ids_of(1), np.ones(4, bool), Room(0, 2), 1, spent)
    assert ledger.counts() == before


def test_two_threads_see_whole_entries():
    """The actor enters a batch while the learner reads."""
    ledger, batches = ledger_of(), 300
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        actor = threading.Thread(target=lambda: [sample(ledger, batch) for batch in range(batches)])
        actor.start()
        while actor.is_alive():
            check(ledger.counts(), {}, 0.0)
        actor.join()
    finally:
        sys.setswitchinterval(interval)
    assert ledger.counts()["rollouts"]["in_flight"] == 4 * batches


def test_the_report_is_json_and_says_what_a_point_costs():
    ledger = whole_ledger()
    report = report_of(ledger, Gain(points=20.0, solved=4))
    assert json.loads(json.dumps(report)) == report
    paid = 8000 + 12000 + 28000 + 168000 + 500  # neither warm start nor evaluation
    assert report["price"]["per_point"]["flops"] == paid / 20
    assert report["price"]["per_solved"]["flops"] == paid / 4
    assert report["price"]["per_point"]["rollouts"] == 4 / 20
    assert report["price"]["per_point"]["verification_cpu_seconds"] == 0.5 / 20
    assert report["verification"]["of_evaluation"]["calls"] == 9
    assert report_of(whole_ledger())["price"]["per_point"]["flops"] is None
    assert report_of(whole_ledger(), Gain(-3.0, 0))["price"]["per_point"]["flops"] is None


def test_cpu_seconds_are_per_accelerator_second_only_beside_an_accelerator():
    assert "cpu_seconds_per_device_second" in report_of(whole_ledger())["verification"]
    ledger = whole_ledger()
    ledger.accelerator = True
    assert "cpu_seconds_per_accelerator_second" in report_of(ledger)["verification"]


class Device:
    platform = "gpu"

    def __init__(self, kind):
        self.device_kind = kind


class TestPeaks:
    @pytest.mark.parametrize(
        ("kind", "dtype", "teraflops"),
        [
            ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
            ("NVIDIA H100 PCIe", "bfloat16", 756),
            ("NVIDIA A100-SXM4-80GB", "float32", 156),
            ("NVIDIA A10G", "bfloat16", 70),
            ("NVIDIA L4", "bfloat16", 121),
            ("NVIDIA L40S", "bfloat16", 362),
            ("TPU v5 lite", "bfloat16", 197),
            ("TPU v5", "float32", 459),
        ],
    )
    def test_a_known_device_is_in_the_table(self, kind, dtype, teraflops):
        peak = peak_of([Device(kind)] * 2, dtype)
        assert peak.flops_per_second == 2 * teraflops * 1e12 and not peak.measured

    def test_no_name_hides_another(self):
        for name, half, _ in PEAKS:
            assert peak_of([Device(name)], "bfloat16").flops_per_second == half, name

    @pytest.mark.parametrize("kind", ["NVIDIA L40", "NVIDIA GB200", "NVIDIA T400", "NVIDIA GeForce RTX 3090 Ti", "cpu"])
    def test_an_unknown_one_is_measured(self, kind, monkeypatch):
        monkeypatch.setattr(peaks, "measured_peak", lambda device, dtype: 5e11)
        assert peak_of([Device(kind)], "float32").measured

    def test_a_measurement_is_of_this_machine(self):
        assert 1e8 < peak_of(jax.devices()[:1], "float32").flops_per_second < 1e15

    def test_more_than_a_tabled_peak_is_an_error_more_than_a_measured_one_a_warning(self):
        assert reached(0.99e12, PEAK) is None
        with pytest.raises(Impossible, match="101% of the peak"):
            reached(1.01e12, PEAK)
        assert "120% of the peak" in reached(1.2e12, Peak(1e12, "measured: here"))
