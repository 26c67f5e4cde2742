"""Useful floating-point operations: what the mathematics asks of real tokens, however a program computes it."""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from ..types import Phase, Size
from .account import Pass
from .flops import Flops


def useful_flops(passes: Iterable[Pass], sizes: Mapping[str, Size], ran: Flops) -> Flops:
    """Operations by phase and component.

    A token that a network reads costs 2 operations a weight of its body, and 4 a unit of attention's
    width and token that it sees, itself included; an output that is used costs 2 a weight of the head.
    The backward pass costs twice the forward one (arXiv:2001.08361, section 2.1). Softmax, norms and
    other elementwise work are left out, as in the usual definition of model FLOPs (arXiv:2204.02311,
    appendix B).

    Args:
      sizes: of the networks that are known.
      ran: what was executed; a network is only charged for phases in which it ran.
    """
    flops: Flops = Counter()
    for one in passes:
        tokens, read = int(one.fed.sum()), int(np.sum(one.read))
        seen = int(one.seen.sum())
        for name, size in sizes.items():
            if (one.phase, name) not in ran:
                continue
            forward = one.times * (2 * size.body * tokens + 4 * size.attention * seen + 2 * size.head * read)
            flops[one.phase, name] += 2 * forward if one.phase == Phase.BACKWARD else forward
    return flops
