"""Whether two runs on the same images differ: paired resampling of the images.

Two questions are asked of the difference of a score, and both have to say that it is there.

- How far would it vary with other images? The *bootstrap* draws as many images as there are, with replacement and the
  same for both runs, and adds up the scores of each draw. The interval is the bias-corrected and accelerated one (BCa,
  Efron 1987, "Better bootstrap confidence intervals", equations 2.3 and 7.4; Efron and Tibshirani 1993, chapter 14),
  which the plain percentiles of a ratio of sums such as IoU fall short of.
- Could the runs be one? The *permutation test* exchanges the results of the two runs on each image with probability one
  half: were the runs alike, no such exchange would matter (approximate randomisation, Noreen 1989). Its p-value counts
  the exchanges with a difference at least as large, the observed one among them (Phipson and Smyth 2010), and is exact
  for any score and number of images, where an interval is only approximate.

Of many classes, some differ by chance. Their p-values are those of the largest of all classes' standardised differences
in the same exchanges (Westfall and Young 1993, step-down maxT), which holds for all classes together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import norm

from maft.evaluation.image_sums import Floats, ImageSums

RESAMPLES = 10_000
# A difference that is none is taken for one in at most one of a hundred comparisons.
LEVEL = 0.99
# Numbers of the weights of images, and of the sums of a block of resamples.
_MOST_WEIGHTS, _MOST_SUMS = 4_000_000, 4_000_000
# Differences that are alike but for rounding.
_TIE = 1e-12


@dataclass(frozen=True, eq=False)
class Differences:
    """Of M scores, the second run's minus the first's, in fractions.

    Attributes:
        names: of the scores; the first ``means`` are means, the others classes.
        means: how many are means.
        first, second: (M,) scores; NaN where one is not defined.
        low, high: (M,) BCa interval of the difference with confidence `LEVEL`.
        p: (M,) p-value of the permutation test; of the classes, adjusted for all of them.
    """

    names: list[str]
    means: int
    first: Floats
    second: Floats
    low: Floats
    high: Floats
    p: Floats

    @property
    def difference(self) -> Floats:
        return self.second - self.first

    @property
    def significant(self) -> NDArray[np.bool_]:
        """(M,) whether interval and test both say that there is a difference."""
        return ((self.low > 0) | (self.high < 0)) & (self.p <= 1 - LEVEL)


def differences(first: ImageSums, second: ImageSums, *, resamples: int = RESAMPLES, seed: int = 0) -> Differences:
    """Compares two runs.

    Args:
        first, second: of the same images in the same order.
        resamples: of either kind.
        seed: the same gives the same numbers.
    """
    draws = np.random.default_rng(seed)
    of_first, of_second = (sums.scores(sums.total())[0] for sums in (first, second))
    observed = of_second - of_first
    drawn = np.concatenate(list(_bootstrap(first, second, resamples, draws)))
    low, high = bca_interval(observed, drawn, _without_each(first, second))
    exchanged = np.concatenate(list(_exchanges(first, second, resamples, draws)))
    p = p_values(observed, exchanged)
    classes = slice(first.means, None)
    p[classes] = adjusted_p_values(observed[classes], exchanged[:, classes])
    return Differences(first.names, first.means, of_first, of_second, low, high, p)


def _blocks(total: int, images: int, columns: int) -> Iterator[int]:
    size = max(1, min(_MOST_WEIGHTS // max(1, images), _MOST_SUMS // max(1, columns)))
    for start in range(0, total, size):
        yield min(size, total - start)


def _bootstrap(first: ImageSums, second: ImageSums, resamples: int, draws: np.random.Generator) -> Iterator[Floats]:
    """(R, M) differences of scores, in blocks."""
    images, columns = first.parts.shape
    parts = [sums.parts.T.tocsr() for sums in (first, second)]
    for count in _blocks(resamples, images, columns):
        # How often each image is drawn: multinomial, as counts of drawn places.
        places = draws.integers(0, images, (count, images)) + images * np.arange(count)[:, None]
        weights = np.bincount(places.ravel(), minlength=count * images).reshape(count, images).astype(np.float64)
        one, other = (_weighted(part, weights) for part in parts)
        yield second.scores(other) - first.scores(one)


def _exchanges(first: ImageSums, second: ImageSums, resamples: int, draws: np.random.Generator) -> Iterator[Floats]:
    """(R, M) differences of scores where the runs' results are exchanged at random, in blocks."""
    images, columns = first.parts.shape
    change = (second.parts - first.parts).T.tocsr()
    for count in _blocks(resamples, images, columns):
        moved = _weighted(change, draws.integers(0, 2, (count, images)).astype(np.float64))
        yield second.scores(second.total() - moved) - first.scores(first.total() + moved)


def _without_each(first: ImageSums, second: ImageSums) -> Floats:
    """(images, M) differences of scores without one image after the other."""
    images, columns = first.parts.shape
    found, start = [], 0
    for count in _blocks(images, 1, columns):
        some = slice(start, start + count)
        one, other = (sums.scores(sums.total() - sums.parts[some].toarray()) for sums in (first, second))
        found.append(other - one)
        start += count
    return np.concatenate(found)


def _weighted(parts: sparse.csr_array, weights: Floats) -> Floats:
    """(K C, images) parts and (R, images) weights -> (R, K C) sums."""
    return np.ascontiguousarray((parts @ weights.T).T)


def bca_interval(observed: Floats, drawn: Floats, without_each: Floats, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Bias-corrected and accelerated bootstrap interval.

    Args:
        observed: (M,) values.
        drawn: (R, M) values of bootstrap samples; those that are NaN (a class that none of the drawn images shows) are
            left out.
        without_each: (images, M) values without one image each.
        level: of confidence.

    Returns:
        (M,) lower and upper ends; NaN where a value is not defined.
    """
    known = np.isfinite(drawn)
    count = known.sum(axis=0)
    below = (known & (drawn < observed - _TIE)).sum(axis=0) + (known & (abs(drawn - observed) <= _TIE)).sum(axis=0) / 2
    # One resample more on either side: of a share of 0 or 1 the normal quantile is infinite.
    bias = norm.ppf((below + 1) / (count + 2))
    # Leaving an image out may leave a class with none.
    away = np.nan_to_num(_mean_of_known(without_each) - without_each)
    spread = (away**2).sum(axis=0) ** 1.5
    acceleration = np.divide((away**3).sum(axis=0), 6 * spread, out=np.zeros_like(spread), where=spread > 0)
    ordered = np.sort(drawn, axis=0)  # NaN last
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        moved = bias + norm.ppf(share)
        place = norm.cdf(bias + moved / (1 - acceleration * moved)) * np.maximum(count - 1, 0)
        at = np.floor(place).astype(np.int64)
        next_one = np.minimum(at + 1, np.maximum(count - 1, 0))
        columns = np.arange(len(observed))
        under, over = ordered[at, columns], ordered[next_one, columns]
        ends.append(np.where(np.isfinite(observed), under + (place - at) * (over - under), np.nan))
    return ends[0], ends[1]


def _mean_of_known(values: Floats) -> Floats:
    known = np.isfinite(values).sum(axis=0)
    return np.nansum(values, axis=0) / np.maximum(known, 1)


def p_values(observed: Floats, exchanged: Floats) -> Floats:
    """(M,) share of the exchanges, and the observation itself, with a difference at least as large as ``observed``."""
    larger = (abs(exchanged) >= abs(observed) - _TIE).sum(axis=0)
    return np.where(np.isfinite(observed), (1 + larger) / (1 + len(exchanged)), np.nan)


def adjusted_p_values(observed: Floats, exchanged: Floats) -> Floats:
    """`p_values` that hold for all scores together: of the largest standardised differences of each exchange.

    From the largest observed one downwards, each is set against the largest of those that are not larger than it.
    """
    spread = np.sqrt(np.nan_to_num(exchanged**2).mean(axis=0))
    scale = np.where(spread > 0, spread, np.inf)
    size = abs(observed) / scale
    ascending = np.argsort(np.nan_to_num(size), kind="stable")
    largest = np.maximum.accumulate(np.nan_to_num(abs(exchanged) / scale)[:, ascending], axis=1)
    p = p_values(size[ascending], largest)
    # A smaller difference is not surer than a larger one.
    adjusted = np.empty_like(p)
    adjusted[ascending] = np.fmax.accumulate(p[::-1])[::-1]
    return np.where(np.isfinite(observed), adjusted, np.nan)
