"""Plays a task with its own reference solutions: what a warm start trains on, and what a task is tested by."""

from collections.abc import Sequence

import numpy as np

from ..contract.task import solution_of
from ..types import Problem, Task, Tokenizer
from ..verifying.steps import own
from ..verifying.verifier import Verifier
from .collector import Batch, batch_of
from .episode import Episodes, SequenceLimits, ragged


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
    prompts = ragged([tokenizer.encode(problem.prompt) for _, problem in problems], limits.prompt)
    episodes, rows = Episodes(len(problems), 1, limits), np.arange(len(problems))
    episodes.open(rows, problems, prompts, first_id=0)
    going = rows.tolist()
    for turn in range(limits.turns):
        given = [(episodes.states[row], solution_of(task, own(episodes.states[row]))) for row in going]
        for row, (_, completion) in zip(going, given, strict=True):
            episodes.demonstrate(row, completion, tokenizer)
        if turn == limits.turns - 1:
            break
        steps, _ = verifier.judge(task, given)
        going = [row for row, _ in episodes.observe(np.array(going), steps, tokenizer)]
        if not going:
            break
    return batch_of(episodes, rows)
