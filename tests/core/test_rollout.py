"""Playing a task: what becomes a token, what is masked, what is shared, and what randomness depends on."""

import functools

import jax
import numpy as np

from rlbench.acting.demonstrations import demonstrations
from rlbench.models.tokenizers import END, PAD
from rlbench.randomness import words
from rlbench.types import Status, Step
from tests.fakes import LETTERS, VERIFIER, Copy, TwoTurns, actor_of, limits_of, problems_of, rough, small_model

MODEL = small_model()


@functools.cache
def params():
    return rough(MODEL.init(jax.random.key(0)))


def play(task, devices, problems=6, group=2, first_id=0, version=0, model=MODEL, **actor):
    player = actor_of(model, task, devices, **actor)
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


def test_one_compilation_a_bucket(devices):
    actor = actor_of(MODEL, TwoTurns(), devices)
    for version in range(3):
        actor.play(params(), problems_of(TwoTurns(), 4), 2, first_id=8 * version, version=version)
    assert (actor.first.compilations, actor.following.compilations) == (1, 1)


def test_sampling_stops_when_every_row_is_done(devices):
    """A policy that always ends at once takes no pass of the decoding loop."""
    from rlbench.acting.generate import Sampling, chooser, first_completion

    def outputs_ending(params, cache, tokens, length):
        outputs, cache = MODEL.extend(params, cache, tokens, length)
        return outputs.at[:, END].set(1e4), cache

    prompt, length = np.full((2, 3), 2, np.int32), np.array([3, 2], np.int32)
    choose = chooser(jax.random.key(0), words(0, 4), np.zeros(4, bool))
    for model, passes in ((MODEL._replace(extend=outputs_ending), 0), (MODEL._replace(emits=np.arange(6) > 1), 4)):
        completion, _ = first_completion(model, params(), prompt, length, choose, Sampling(), 5, 4)
        assert completion.steps == passes


def test_a_prompt_is_prefilled_once_a_problem_and_shared():
    """The cache of the prompts has a row a problem, that of the completions a row a rollout."""
    from rlbench.acting.generate import Sampling, chooser, first_completion

    choose = chooser(jax.random.key(0), words(0, 8), np.zeros(8, bool))
    prompt, length = np.full((2, 3), 2, np.int32), np.array([3, 2], np.int32)
    _, cache = first_completion(MODEL, params(), prompt, length, choose, Sampling(), 5, 4)
    assert [segment.keys[0].shape[:2] for segment in cache.segments] == [(2, 3), (8, 4)]


def test_greedy_rows_take_the_most_probable_token(devices):
    actor = actor_of(MODEL, Copy(), devices)
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
