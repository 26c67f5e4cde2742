"""Expert iteration: sample many, keep the verified, fine-tune on them. No baseline, no ratio, no clip."""

from rlbench.learning.estimators import solved
from rlbench.learning.sft import sft
from rlbench.types import Algorithm, Count, Model


def expert_iteration(model: Model, *, group_size: Count) -> Algorithm:
    """Rejection-sampling fine-tuning, step by step (STaR, arXiv:2203.14465; RFT, arXiv:2308.01825).

    Only rollouts of full reward are kept, and their likelihood is raised. Departures: the policy goes on
    from where it stands, where STaR starts anew from the first one each round; completions that are kept
    twice count twice; failed problems are not shown their answer.
    """
    return sft(model)._replace(keep=solved, group_size=group_size)
