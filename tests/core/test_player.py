"""Playing a task: what becomes a token, what is masked, what randomness depends on, and who waits for whom."""

import functools
import itertools
import random
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlbench.acting.demonstrations import demonstrations
from rlbench.acting.player import Player
from rlbench.acting.slots import Admission, Sampling, admit, decode, idle, read_prompts
from rlbench.models.likelihood import token_logp
from rlbench.models.tokenizers import END, PAD, Characters
from rlbench.randomness import words
from rlbench.types import Status, Step
from tests.fakes import (
    ACTING,
    LETTERS,
    VERIFIER,
    WHOLE,
    Copy,
    TwoTurns,
    limits_of,
    player_of,
    problems_of,
    rough,
    small_model,
)
from tests.lockstep import LockStep

MODEL = small_model()


@functools.cache
def params():
    return rough(MODEL.init(jax.random.key(0)))


def play(task, devices, problems=6, group=2, first_id=0, version=0, model=MODEL, **actor):
    player = player_of(model, task, devices, **actor)
    return player.play(params(), problems_of(task, problems), group, first_id=first_id, version=version)


def test_a_row_is_prompt_completion_padding(devices):
    batch = play(Copy(), devices, completion=3)
    for row, trajectory in enumerate(batch.trajectories):
        tokens, mask = batch.rollouts.tokens[row], batch.rollouts.mask[row]
        prompt, end = trajectory.prompt_tokens, trajectory.prompt_tokens + trajectory.completion_tokens
        assert LETTERS.decode(tokens[:prompt]) == trajectory.prompt
        assert LETTERS.decode(tokens[prompt:end]) == trajectory.completions[0]
        assert mask.tolist() == [prompt <= t < end for t in range(len(mask))]
        assert (tokens[end:] == PAD).all()
        assert (tokens[end - 1] != END) == trajectory.truncated
        assert (batch.rollouts.logp[row][~mask] == 0).all() and (batch.rollouts.logp[row][mask] < 0).all()


def test_reward_is_paid_at_the_last_token_of_the_turn(devices):
    batch = play(Copy(), devices, problems=30, group=4)
    paid = np.argwhere(batch.rollouts.reward)
    assert len(paid), "the test wants a solved rollout"
    for row, t in paid:
        assert batch.rollouts.mask[row, t] and not batch.rollouts.mask[row, t + 1 :].any()
        assert batch.trajectories[row].solved


def test_groups_are_attempts_at_one_problem(devices):
    batch = play(Copy(), devices, problems=3, group=4)
    assert batch.rollouts.group.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert [t.problem for t in batch.trajectories] == [0] * 4 + [1] * 4 + [2] * 4


def test_the_version_of_the_policy_is_at_every_token(devices):
    assert (play(Copy(), devices, version=5).rollouts.version == 5).all()


def test_several_turns_are_one_row(devices):
    batch = play(TwoTurns(), devices, problems=20)
    for row, trajectory in enumerate(batch.trajectories):
        first, second = trajectory.completions
        mask = batch.rollouts.mask[row]
        chosen = batch.rollouts.tokens[row][mask]
        assert LETTERS.decode(chosen) == first + second
        turns = np.split(batch.rollouts.tokens[row], np.flatnonzero(np.diff(mask)) + 1)
        assert [LETTERS.decode(turn) for turn in turns[:4]] == ["b=", first, "cc=", second]
        assert batch.rollouts.reward[row].sum() == (first == "a")
        assert trajectory.observation_tokens == 3
    assert len({t.completions[0] for t in batch.trajectories}) > 2


class Sometimes(TwoTurns):
    """Ends after the first turn for some, goes on for others, and breaks for a third kind."""

    def step(self, state, completion):
        if state is None and len(completion) == 0:
            return Step(completion, None, 0.0, Status.WRONG)
        if state is None and completion[0] == "c":
            return Step(completion, None, 1.0, Status.INFRASTRUCTURE)
        return super().step(state, completion)


def test_rows_end_at_different_turns_and_broken_ones_did_not_happen(devices):
    batch = play(Sometimes(), devices, problems=30)
    statuses = [t.status for t in batch.trajectories]
    assert {Status.INFRASTRUCTURE, Status.WRONG}.issubset(statuses)
    assert {1, 2} == {len(t.completions) for t in batch.trajectories}
    for row, status in enumerate(statuses):
        assert batch.rollouts.mask[row].any() == (status != Status.INFRASTRUCTURE)


class Talkative(TwoTurns):
    """Says something after every completion, also when the episode is over."""

    def step(self, state, completion):
        status = Status.INFRASTRUCTURE if completion == "c" else Status.OPEN
        return Step(completion, "cc=", 0.0, status)


def test_nothing_is_read_after_the_end(devices):
    """The last turn's observation, or one of an episode that broke, is nobody's to read."""
    batch = play(Talkative(), devices, problems=30)
    for row, trajectory in enumerate(batch.trajectories):
        if "c" in trajectory.completions:
            assert trajectory.completions[-1] == "c" and not batch.rollouts.mask[row].any()
        assert trajectory.observation_tokens == 3 * (len(trajectory.completions) - 1)
    assert {1, 2} == {len(t.completions) for t in batch.trajectories}


def test_randomness_is_of_the_rollouts_id_not_of_its_place(devices):
    """The same ids in other batches, groups and buckets say the same."""
    whole = play(TwoTurns(), devices, problems=8, group=1)
    part = play(TwoTurns(), devices, problems=4, group=1, first_id=4)
    grouped = play(TwoTurns(), devices, problems=4, group=2)
    bucketed = play(TwoTurns(), devices, problems=8, group=1, buckets=(9, 10))
    assert [t.completions for t in whole.trajectories[4:]] == [t.completions for t in part.trajectories]
    assert [t.completions for t in whole.trajectories] == [t.completions for t in grouped.trajectories]
    assert [t.completions for t in whole.trajectories] == [t.completions for t in bucketed.trajectories]
    assert len({t.completions for t in whole.trajectories}) > 4


def test_rollouts_beyond_a_words_end_are_no_others(devices):
    """Ids from 2^32 - 4 on: the last four say nothing that ids from 0 said."""
    late = play(TwoTurns(), devices, problems=8, group=1, first_id=(1 << 32) - 4)
    early, before = (
        play(TwoTurns(), devices, problems=8, group=1),
        play(TwoTurns(), devices, problems=8, group=1, first_id=(1 << 32) - 8),
    )
    assert [t.completions for t in late.trajectories[:4]] == [t.completions for t in before.trajectories[4:]]
    assert [t.completions for t in late.trajectories[4:]] != [t.completions for t in early.trajectories[:4]]


def test_four_devices_say_what_one_says(devices):
    from rlbench.devices import Devices

    one, four = play(TwoTurns(), devices, problems=8), play(TwoTurns(), Devices(), problems=8)
    assert [t.completions for t in one.trajectories] == [t.completions for t in four.trajectories]


def test_the_smallest_bucket_that_holds_the_batch_is_taken(devices):
    lengths = {play(Copy(), devices, problems=p, group=1, buckets=(4, 5)).rollouts.tokens.shape[1] for p in (1, 2, 9)}
    assert lengths <= {4, 5, 6} and len(lengths) > 1


class Merging(Characters):
    """Letters, and a token for two of them: "ab" can be sampled as one token or as two, and is encoded as one."""

    def __init__(self):
        super().__init__(alphabet="abc=")
        self.vocabulary += 1
        self.emits = np.arange(self.vocabulary) != PAD
        self._letters = [*self._letters, "ab"]

    def encode(self, text):
        first, *others = text.split("ab")
        return sum(([6, *super(Merging, self).encode(part)] for part in others), super().encode(first))


class Echoes(TwoTurns):
    """Four turns, whose observations have one to three characters."""

    bounds = TwoTurns.bounds._replace(turns=4)

    def step(self, state, completion):
        turn = (state or 0) + 1
        return Step(turn, "ab="[turn % 3 :], 0.25 * (completion == "ab"), Status.OPEN)


def test_a_trajectory_is_what_the_model_saw_token_for_token(devices):
    """Also where its text, encoded again, would be other tokens: recorded log-probabilities are those of its tokens."""
    tokenizer = Merging()
    model = small_model(tokenizer)
    weights = rough(model.init(jax.random.key(0)))
    player = player_of(model, Echoes(), devices, completion=4, tokenizer=tokenizer, acting=FEW)
    batch = player.play(weights, problems_of(Echoes(), 20), 2, first_id=0, version=0)
    rollouts = jax.tree.map(jnp.asarray, batch.rollouts)
    np.testing.assert_allclose(token_logp(model, weights, rollouts), batch.rollouts.logp, atol=1e-5)

    def encoded_again(row):
        """The row as tokens of its texts: completions, each with its end, and what was said between them."""
        ends = np.split(row, np.flatnonzero(row == END) + 1)
        texts = [[*tokenizer.encode(tokenizer.decode(tokens)), *tokens[tokens == END].tolist()] for tokens in ends]
        return [*itertools.chain(*texts)]

    drifted = [
        row
        for row, length in zip(batch.rollouts.tokens, batch.trajectories.tally.tokens, strict=True)
        if encoded_again(row[:length]) != row[:length].tolist()
    ]
    assert len(drifted) > 5, "the test wants texts that are encoded otherwise than they were sampled"


FEW = ACTING._replace(slots=5, chunk=2)  # rows for many rollouts


@pytest.mark.parametrize("most", [9, 12, 17])
def test_an_episode_has_as_many_tokens_as_it_may_and_no_more(devices, most):
    """A completion is cut where the episode is full; one whose observation leaves no room for a token is over."""
    player = player_of(MODEL, Echoes(), devices, completion=5, continuation=most, acting=FEW)
    batch = player.play(params(), problems_of(Echoes(), 30), 2, first_id=0, version=0)
    tally = batch.trajectories.tally
    length = tally.tokens - tally.prompt
    assert length.max() == most and len({*length.tolist()}) > 1
    for trajectory, full in zip(batch.trajectories, length > most - 4, strict=True):
        assert len(trajectory.completions) == 4 or (full and trajectory.truncated)
    rollouts = jax.tree.map(jnp.asarray, batch.rollouts)
    np.testing.assert_allclose(token_logp(MODEL, params(), rollouts), batch.rollouts.logp, atol=1e-5)
    expected = LockStep(player).play(params(), problems_of(Echoes(), 30), 2, first_id=0, version=0)
    assert list(batch.trajectories) == list(expected.trajectories)
    np.testing.assert_array_equal(batch.rollouts.tokens, expected.rollouts.tokens)


def test_an_episode_whose_first_completion_may_fill_it_has_one_turn(devices):
    player = player_of(MODEL, Echoes(), devices, completion=5, continuation=3)
    batch = player.play(params(), problems_of(Echoes(), 20), 1, first_id=0, version=0)
    assert {len(t.completions) for t in batch.trajectories if t.completion_tokens > 1} == {1}
    assert max(t.completion_tokens for t in batch.trajectories) == 3


@pytest.mark.parametrize(("task", "continuation"), [(Sometimes(), None), (Echoes(), 12)], ids=["turns", "full"])
def test_everything_is_compiled_in_the_first_play(devices, task, continuation):
    """However many rollouts, turns and tokens of each, and whether or not the environment answered before."""
    player = player_of(MODEL, task, devices, acting=FEW, completion=4, continuation=continuation)
    for version, problems in enumerate((8, 8, 3, 20)):
        player.play(params(), problems_of(TwoTurns(), problems), 2, first_id=8 * version, version=version)
    programs = (player.read, player.start, player.answers, player.sample)
    assert [program.compilations for program in programs] == [1, 1, 1, 1]


def test_sampling_stops_when_every_row_is_done(devices):
    """A policy that always ends at once takes no pass of the decoding loop."""

    def outputs_ending(params, cache, tokens, length):
        outputs, cache = MODEL.extend(params, cache, tokens, length)
        return outputs.at[:, END].set(1e4), cache

    for model, passes in ((MODEL._replace(extend=outputs_ending), 0), (MODEL._replace(emits=np.arange(6) > 1), 4)):
        player = player_of(model, Copy(), devices, completion=5)
        player.play(params(), problems_of(Copy(), 2), 2, first_id=0, version=0)
        decoding = [one.slots for one in player.account.take().passes if one.phase == "decode"]
        assert sum(decoding) == 4 * passes


def test_a_prompt_is_read_once_a_problem(devices):
    """For all rows of its group, though they begin at different times."""
    player = player_of(MODEL, Copy(), devices, acting=FEW)
    player.play(params(), problems_of(Copy(), 6), 4, first_id=0, version=0)
    reading, _ = player.account.take().passes
    assert (reading.slots, reading.copies) == (6 * 4, 4) and len(reading.fed) == 6


def test_greedy_rows_take_the_most_probable_token(devices):
    actor = player_of(MODEL, Copy(), devices)
    runs = [
        actor.play(params(), problems_of(Copy(), 9), 3, first_id=i, version=0, greedy=[True, False, False])
        for i in (0, 100)
    ]
    completions = np.array([[t.completions[0] for t in run.trajectories] for run in runs]).reshape(2, 9, 3)
    assert (completions[0, :, 0] == completions[1, :, 0]).all()
    assert (completions[0, :, 1:] != completions[1, :, 1:]).any()


def test_demonstrations_are_solutions_and_end():
    batch = demonstrations(TwoTurns(), LETTERS, limits_of(TwoTurns()), VERIFIER, problems_of(TwoTurns(), 2))
    assert all(t.completions == ("a", "a") for t in batch.trajectories)
    chosen = batch.rollouts.tokens[batch.rollouts.mask]
    assert LETTERS.decode(chosen) == "aaaa" and (chosen == END).sum() == 4


def test_demonstrations_may_all_be_over_before_the_last_turn():
    class Longer(TwoTurns):
        bounds = TwoTurns.bounds._replace(turns=5)

    batch = demonstrations(Longer(), LETTERS, limits_of(Longer()), VERIFIER, problems_of(Longer(), 2))
    assert all(t.completions == ("a", "a") and t.status == Status.PASSED for t in batch.trajectories)


# What it is held to: lock-step sampling, and itself under other circumstances.


@pytest.mark.parametrize("acting", [ACTING, FEW], ids=["at once", "five rows"])
@pytest.mark.parametrize("task", [Copy(), TwoTurns(), Sometimes()], ids=lambda task: type(task).__name__)
def test_it_says_what_lock_step_says(devices, task, acting):
    player = player_of(MODEL, task, devices, completion=6, acting=acting)
    reference = LockStep(player)
    for first in range(0, 60, 20):
        batch, expected = (
            one.play(params(), problems_of(task, 10), 2, first_id=first, version=3) for one in (player, reference)
        )
        assert list(batch.trajectories) == list(expected.trajectories)
        for name in ("tokens", "mask", "reward", "group", "version"):
            np.testing.assert_array_equal(getattr(batch.rollouts, name), getattr(expected.rollouts, name))
        np.testing.assert_allclose(batch.rollouts.logp, expected.rollouts.logp, atol=1e-5)


def sampled(rows: dict[int, tuple[int, int]]) -> dict[int, list]:
    """Tokens and log-probabilities of six rows, by id; given {slot: (prompt, id)}."""
    prompts = read_prompts(MODEL, params(), jnp.array([[2, 5, 0], [3, 3, 5], [4, 5, 0]]), jnp.array([2, 3, 2]))
    source, ids = np.full(6, -1, np.int32), np.zeros((6, 2), np.uint32)
    for slot, (prompt, one) in rows.items():
        source[slot], ids[slot] = prompt, words(np.array(one))
    admission = Admission(source, ids, np.zeros(6, bool), np.full(6, 8, np.int32))
    slots = admit(MODEL, idle(MODEL, 6, 12), prompts, jax.random.key(3), admission, Sampling())
    _, chunk = jax.jit(lambda slots: decode(MODEL, params(), slots, jax.random.key(3), Sampling(), 7))(slots)
    return {one: [*zip(chunk.tokens[slot].tolist(), chunk.logp[slot].tolist())] for slot, (_, one) in rows.items()}


def test_a_row_depends_neither_on_its_slot_nor_on_its_neighbours():
    """To the last bit."""
    whole = sampled({0: (0, 0), 1: (1, 1), 2: (2, 2), 3: (0, 3), 4: (1, 4), 5: (2, 5)})
    assert len({tuple(row) for row in whole.values()}) == 6
    for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 97):
        assert sampled({slot: (one % 3, one) for slot, one in enumerate(order)}) == whole
    for one in range(6):
        assert sampled({2: (one % 3, one)})[one] == whole[one], "alone"
        others = {slot: (slot % 3, 100 + slot) for slot in range(6) if slot != 3}
        assert sampled({3: (one % 3, one)} | others)[one] == whole[one], "among others"


class Late(Sometimes):
    """Each of its steps takes as long as chance will have it."""

    blocking = True

    def step(self, state, completion):
        time.sleep(random.random() / 50)
        return super().step(state, completion)


@pytest.mark.parametrize("chunk", [1, 2, 16])
def test_neither_delays_nor_chunks_change_anything(devices, chunk):
    def play(task, acting, **how):
        player = player_of(MODEL, task, devices, completion=4, acting=acting, **how)
        return player.play(params(), problems_of(task, 12), 2, first_id=0, version=0)

    prompt = play(Sometimes(), ACTING._replace(slots=6))
    for _ in range(3):
        late = play(Late(), ACTING._replace(slots=6, chunk=chunk))
        assert list(late.trajectories) == list(prompt.trajectories)
        for ours, theirs in zip(late.rollouts, prompt.rollouts, strict=True):
            np.testing.assert_array_equal(ours, theirs)


class Patient(TwoTurns):
    """The first step of all waits until all others have been made."""

    blocking = True

    def __init__(self, others: int):
        self.lock, self.others, self.done = threading.Lock(), others, threading.Event()
        self.steps = 0

    def step(self, state, completion):
        with self.lock:
            self.steps += 1
            first = self.steps == 1
            if self.steps == 1 + self.others:
                self.done.set()
        if first:
            assert self.done.wait(30), "somebody waited for the first one"
        return super().step(state, completion)


def test_a_rollout_that_waits_for_its_environment_holds_up_nobody(devices):
    """Nine others take their two turns in two rows meanwhile, though a third is not theirs."""
    task = Patient(others=2 * 9)
    batch = player_of(MODEL, task, devices, acting=ACTING._replace(slots=3)).play(
        params(), problems_of(task, 10), 1, first_id=0, version=0
    )
    assert [len(t.completions) for t in batch.trajectories] == [2] * 10
    assert Status.INFRASTRUCTURE not in {t.status for t in batch.trajectories}


def test_steps_that_block_are_made_side_by_side(devices):
    """64 steps, none of which ends before all have begun."""
    together = threading.Barrier(64, timeout=60)

    class Meets(Copy):
        blocking = True

        def step(self, state, completion):
            together.wait()
            return super().step(state, completion)

    player = player_of(MODEL, Meets(), devices)
    batch = player.play(params(), problems_of(Copy(), 64), 1, first_id=0, version=0)
    assert Status.INFRASTRUCTURE not in {t.status for t in batch.trajectories}
    judging = player.account.take().verification
    assert judging.calls == 64 and judging.wall_seconds > 0


def test_a_completion_is_judged_when_it_is_finished(devices):
    """With one row, each before the next one is begun."""
    judged = []

    class Watches(Copy):
        def step(self, state, completion):
            judged.append(len(sampling))
            return super().step(state, completion)

    player, sampling = player_of(MODEL, Watches(), devices, acting=ACTING._replace(slots=1, chunk=1)), []
    start = player.start
    player.start = lambda *arguments: (sampling.append(1), start(*arguments))[1]
    player.play(params(), problems_of(Copy(), 5), 1, first_id=0, version=0)
    assert judged == [1, 2, 3, 4, 5]


class CountsDown(TwoTurns):
    """Three turns, of which some are the last."""

    bounds = TwoTurns.bounds._replace(turns=3)

    def step(self, state, completion):
        turn = (state or 0) + 1
        return Step(turn, "cc=" if len(completion) % 2 == 0 and turn < 3 else None, float(turn), Status.WRONG)


@pytest.mark.parametrize("name", ["demo", "several turns"])
def test_twenty_batches_say_what_lock_step_says(devices, plan_of, name):
    """The same tokens, but where the two that are most probable are as good as equal; such rollouts are counted."""
    if name == "demo":
        plan = plan_of("grpo", "experiment=demo", "model=nano", "evaluation.problems=2")
        about = plan.model, plan.task, plan.tokenizer, plan.limits, WHOLE, devices, jax.random.key(1)
        player, group, count = Player(*about, plan.verifier, plan.acting), 4, 48
        weights = rough(plan.model.init(jax.random.key(0)), 0.05)
    else:
        player, group, count = player_of(MODEL, CountsDown(), devices, completion=6, acting=FEW), 2, 20
        weights = params()
    reference, differ, gaps = LockStep(player), 0, []
    for number in range(20):
        problems = [(seed, player.task.problem(seed, "train")) for seed in range(count * number, count * (number + 1))]
        how = {"first_id": number * count * group, "version": 0}
        ours, theirs = (one.play(weights, problems, group, **how).rollouts for one in (player, reference))
        same = (ours.tokens == theirs.tokens).all(axis=1)
        differ += int((~same).sum())
        gaps.append(np.abs(ours.logp - theirs.logp)[same].max())
        np.testing.assert_array_equal(ours.reward[same], theirs.reward[same])
    assert differ <= 20 * count * group / 1000 and max(gaps) < 1e-5
