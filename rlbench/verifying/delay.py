"""An environment that is slower than ours: how much later its answers come, at random but always the same."""

import math
from typing import NamedTuple

import numpy as np


class Delay(NamedTuple):
    """Log-normal seconds of a given mean; with sigma 0 all alike."""

    seconds: float = 0.0  # the mean
    sigma: float = 0.0  # deviation of the logarithm; 1 is a heavy tail: one in 20 takes 3 times the mean, or more

    def of(self, ticket: int) -> float:
        """Seconds for every turn of what a caller knows by this number."""
        if not self.sigma or not self.seconds:
            return self.seconds
        normal = float(np.random.default_rng(ticket).standard_normal())
        return self.seconds * math.exp(self.sigma * normal - self.sigma**2 / 2)


AT_ONCE = Delay()
