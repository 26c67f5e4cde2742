"""Latency of the booking site: seconds that a step takes, at random but always the same for the same number."""

import random
from typing import Literal, NamedTuple

from rlbench.types import NonNegative, Positive

Distribution = Literal["constant", "log_normal", "pareto"]


class Latency(NamedTuple):
    """Seconds of a given mean.

    log_normal: `shape` is the deviation of the logarithm; 1 is a tail in which one in 20 takes 3 times the mean.
    pareto: a heavy tail, P(seconds > x) ~ x^-(1 + 1 / shape). With shape 1 its variance is infinite.
    """

    distribution: Distribution
    seconds: NonNegative  # the mean; 0: none
    shape: Positive  # of constant: not used
    longest: Positive  # seconds, at which the tail is cut

    def of(self, seed: int, turn: int) -> float:
        """Seconds of a turn of an episode."""
        if not self.seconds:
            return 0.0
        draw = random.Random(f"latency {seed} {turn}")
        match self.distribution:
            case "constant":
                seconds = self.seconds
            case "log_normal":
                seconds = self.seconds * draw.lognormvariate(-(self.shape**2) / 2, self.shape)
            case "pareto":
                alpha = 1 + 1 / self.shape
                seconds = self.seconds * draw.paretovariate(alpha) * (alpha - 1) / alpha
        return min(seconds, self.longest)
