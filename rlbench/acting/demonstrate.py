"""Plays a task with its own gold replies: what a warm start imitates, and what a task is tested by."""

from collections.abc import Sequence

from ..types import Problem, Status, Task, Tokenizer
from .rollout import Batch, Conversation, Space, pack


def demonstrate(task: Task, tokenizer: Tokenizer, space: Space, problems: Sequence[tuple[int, Problem]]) -> Batch:
    """One conversation for each (seed, problem), every reply the gold one, ended as a policy would end it."""
    conversations = []
    for seed, problem in problems:
        conversation = Conversation(seed, problem, tokenizer.encode(problem.prompt))
        for _ in range(space.turns):
            reply = task.gold(conversation.state)
            conversation.say([*tokenizer.encode(reply), tokenizer.end], chosen=True)
            conversation.hear(task, tokenizer, reply)
            if conversation.status != Status.OPEN:
                break
        conversations.append(conversation)
    return pack(conversations, 1, 0, space.buckets)
