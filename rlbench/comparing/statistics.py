"""Statistics of two algorithms from a few seeds: intervals for display, a test for pairs, and how many would do.

Display follows arXiv:2108.13264 (Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical
Precipice"). A sample is f64[n], a score a seed.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
import scipy  # and no module of it, which are imported when they are named: scipy.stats takes seconds

FEWEST = 4  # seeds a side: with three, the two most extreme of the 20 relabellings are already a tenth of them
EXACT = 200_000  # most relabellings that are all looked at: up to ten seeds a side
RANDOM = 9_999  # relabellings drawn where there are more
MOST = 10_000  # seeds a side that anybody is told to run


def interquartile_mean(sample: np.ndarray, axis: int = -1) -> np.ndarray:
    """The mean of the middle half (section 4.3): a quarter of n, rounded down, is cut from either end."""
    return scipy.stats.trim_mean(sample, 0.25, axis)


def improvement(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The probability that a seed of ours is better than one of theirs (section 4.3); a tie is a half.

    Args:
      ours: f64[..., n]
      theirs: f64[..., m]
    """
    differences = ours[..., :, None] - theirs[..., None, :]
    return (np.sign(differences).mean((-2, -1)) + 1) / 2


def bootstrap_interval(
    statistic: Callable[..., np.ndarray], samples: Sequence[np.ndarray], *, level: float, resamples: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """A stratified percentile bootstrap interval of a statistic: each sample is resampled within itself.

    With few seeds it is too narrow (section 4.2); it is for display, and decides nothing.

    Args:
      statistic: of samples whose last axis is the seeds.
      samples: f64[..., n_i]; the strata.
      level: the part that may lie outside.
    """
    random = np.random.default_rng(0)  # the same page from the same runs
    drawn = []
    for sample in samples:
        which = random.integers(sample.shape[-1], size=(resamples, sample.shape[-1]))
        drawn.append(np.moveaxis(sample[..., which], -2, 0))  # f64[resamples, ..., n]
    low, high = np.quantile(statistic(*drawn), [level / 2, 1 - level / 2], axis=0)
    return low, high


def permutation_test(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The two-sided p-value of a difference of means, over the ways to relabel the seeds.

    Exact where there are at most EXACT ways; else over RANDOM of them and the one observed, which keeps the level
    (Phipson and Smyth, arXiv:1603.05766). It assumes nothing of the scores but that, were the algorithms the same, any
    labels would be as likely as these.
    """
    pool = np.concatenate([ours, theirs])
    pool = pool - pool.mean()
    sums = pool[relabellings(len(ours), len(theirs))].sum(1)  # centred: those of the others are their negatives
    observed = abs(pool[: len(ours)].sum())
    return float(np.mean(np.abs(sums) >= observed - 1e-9 * np.abs(pool).sum()))


@lru_cache(maxsize=8)
def relabellings(ours: int, theirs: int) -> np.ndarray:
    """i64[ways, ours], the indices that a relabelling calls ours; what was observed is the first."""
    total = ours + theirs
    if math.comb(total, ours) <= EXACT:
        return np.array(list(combinations(range(total), ours)))
    random = np.random.default_rng(0)
    drawn = random.permuted(np.tile(np.arange(total), (RANDOM, 1)), axis=1)[:, :ours]
    return np.concatenate([np.arange(ours)[None], drawn])


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for how many there are (Holm, 1979): any false one is rarer than the level."""
    adjusted, running = [0.0] * len(values), 0.0
    for rank, index in enumerate(np.argsort(values, kind="stable")):
        running = max(running, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = running
    return adjusted


def fewest_seeds(level: float, pairs: int) -> int:
    """The fewest seeds a side of which the clearest result could be significant in the hardest of Holm's steps."""
    seeds = FEWEST
    while 2 / math.comb(2 * seeds, seeds) > level / pairs:
        seeds += 1
    return seeds


def power(effect: float, seeds: int, level: float) -> float:
    """The chance that a two-sided t-test, which the permutation test follows closely, sees an effect for what it is.

    Args:
      effect: difference of means in standard deviations.
      seeds: a side.
    """
    freedom, shift = 2 * seeds - 2, abs(effect) * math.sqrt(seeds / 2)
    limit = scipy.stats.t.isf(level / 2, freedom)
    if shift > limit + 6 + 60 / freedom:
        return 1.0  # to many digits; scipy's noncentral t has none far out
    return float(scipy.stats.nct.sf(limit, freedom, shift))


def seeds_that_would_do(effect: float, *, level: float, pairs: int, wanted: float) -> int | None:
    """Seeds a side that show an effect with the wanted power; None where none or too many would.

    An effect estimated from few seeds is a guess, and so is this number.

    Args:
      effect: difference of means in standard deviations, infinite where the seeds do not spread.
      level: of all pairs together; each is held to its share, the hardest of Holm's steps.
    """
    fewest = fewest_seeds(level, pairs)

    def enough(seeds: int) -> bool:
        return math.isinf(effect) or power(effect, seeds, level / pairs) >= wanted

    if effect == 0 or not enough(MOST):
        return None
    low, high = fewest - 1, MOST  # enough at `high`, not at `low`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def effect_size(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """The difference of means in pooled standard deviations (Cohen's d); None where no spread can be known."""
    freedom = len(ours) + len(theirs) - 2
    if freedom < 1:
        return None
    difference = float(ours.mean() - theirs.mean())
    spread = math.sqrt((len(ours) * ours.var() + len(theirs) * theirs.var()) / freedom)
    return difference / spread if spread > 0 else math.copysign(math.inf, difference) if difference else 0.0
