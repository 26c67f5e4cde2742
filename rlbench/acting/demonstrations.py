"""Plays a task with its own reference solutions: what a warm start trains on, and what a task is tested by."""

from collections.abc import Sequence

from ..contract.task import solution_of
from ..models.tokenizers import END
from ..types import Problem, Task, Tokenizer
from ..verifying.steps import own
from ..verifying.verifier import Verifier
from .rollout import Batch, Episode, SequenceLimits, pack


def demonstrations(
    task: Task,
    tokenizer: Tokenizer,
    limits: SequenceLimits,
    verifier: Verifier,
    problems: Sequence[tuple[int, Problem]],
) -> Batch:
    """One episode for each (seed, problem), played by its reference solution, ended as a policy would end it.

    A completion after which nothing can follow is not judged: what is learned is the completion, not its reward.
    """
    episodes = [Episode(seed, problem, tokenizer.encode(problem.prompt)) for seed, problem in problems]
    going = episodes
    for turn in range(limits.turns):
        completions = [solution_of(task, own(episode.state)) for episode in going]
        for episode, completion in zip(going, completions, strict=True):
            episode.append([*tokenizer.encode(completion), END], chosen=True)
            episode.completions.append(completion)
        if turn == limits.turns - 1:
            break
        steps, _ = verifier.judge(
            task, [(c.state, completion) for c, completion in zip(going, completions, strict=True)]
        )
        going = [c for c, step in zip(going, steps, strict=True) if c.observe(step, tokenizer, last=False)]
    return pack(episodes, 1, 0, limits.buckets)
