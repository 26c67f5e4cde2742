"""Plays a task with its own gold replies: what a warm start imitates, and what a task is tested by."""

from collections.abc import Sequence

from ..contract.task import gold_of
from ..models.tokenizers import END
from ..types import Problem, Task, Tokenizer
from ..verifying.steps import own
from ..verifying.verifier import Verifier
from .rollout import Batch, Conversation, Space, pack


def demonstrate(
    task: Task, tokenizer: Tokenizer, space: Space, verifier: Verifier, problems: Sequence[tuple[int, Problem]]
) -> Batch:
    """One conversation for each (seed, problem), every reply the gold one, ended as a policy would end it.

    A reply after which nothing can follow is not judged: what is imitated is the reply, not its reward.
    """
    conversations = [Conversation(seed, problem, tokenizer.encode(problem.prompt)) for seed, problem in problems]
    going = conversations
    for turn in range(space.turns):
        replies = [gold_of(task, own(conversation.state)) for conversation in going]
        for conversation, reply in zip(going, replies, strict=True):
            conversation.say([*tokenizer.encode(reply), END], chosen=True)
            conversation.replies.append(reply)
        if turn == space.turns - 1:
            break
        steps, _ = verifier.judge(task, [(c.state, reply) for c, reply in zip(going, replies, strict=True)])
        going = [c for c, step in zip(going, steps, strict=True) if c.hear(step, tokenizer, last=False)]
    return pack(conversations, 1, 0, space.buckets)
