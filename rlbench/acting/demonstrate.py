"""Plays a task with its own gold replies: what a warm start imitates, and what a task is tested by."""

from collections.abc import Sequence

from ..models.tokenizers import END
from ..types import Problem, Task, Tokenizer
from .rollout import Batch, Conversation, Space, pack


def demonstrate(task: Task, tokenizer: Tokenizer, space: Space, problems: Sequence[tuple[int, Problem]]) -> Batch:
    """One conversation for each (seed, problem), every reply the gold one, ended as a policy would end it."""
    conversations = []
    for seed, problem in problems:
        conversation = Conversation(seed, problem, tokenizer.encode(problem.prompt))
        for turn in range(space.turns):
            reply = task.gold(conversation.state)
            conversation.say([*tokenizer.encode(reply), END], chosen=True)
            if not conversation.hear(
                task.step(conversation.state, reply), tokenizer, reply, last=turn == space.turns - 1
            ):
                break
        conversations.append(conversation)
    return pack(conversations, 1, 0, space.buckets)
