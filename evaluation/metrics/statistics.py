"""Intervals of an accuracy, and of a difference between two models on the same questions.

Questions about the same image are not independent (who misreads a digit gets its list and its sum wrong), so every
function takes `images`, the image of each question, and counts images where it matters. With one question an image,
these are the textbook methods: Wilson's interval, the bootstrap of pairs, and McNemar's exact test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z = 1.959963984540054  # a standard normal lies within +-Z with probability 95%
POWER = 0.8416212335729143  # and below it with 80%
RESAMPLES = 10_000
Interval = tuple[float, float]


def wilson(mean: float, n: float) -> Interval:
    """The 95% interval of a share that was `mean` among `n` independent trials (Wilson 1927, JASA 22, 209).

    `n` may be an effective number of trials, and need not be whole. For numbers in [0, 1] that are not all 0 or 1
    the interval is wider than it has to be, never narrower: no variable with that mean varies more.
    """
    centre = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(max(mean * (1 - mean), 0.0) / n + Z**2 / (4 * n**2))
    return max(0.0, min(centre - half, mean)), min(1.0, max(centre + half, mean))


def effective_n(values: ArrayLike, images: Sequence[str]) -> float:
    """How many independent questions these are worth: between the number of images and the number of questions.

    The number of questions over the design effect (Korn and Graubard 1998, Survey Methodology 24, 193), which is the
    variance of the mean when images are drawn at random, over its variance when questions are.
    """
    total, size = _by_image(np.asarray(values, dtype=np.float64), images)
    n, count = float(size.sum()), len(size)
    mean = float(total.sum()) / n
    if count == n:
        return n
    if count == 1 or not 0 < mean < 1:  # nothing varies, so nothing tells how alike the answers to one image are
        return float(count)
    between = count / (count - 1) * float(((total - mean * size) ** 2).sum()) / n**2
    effect = between / (mean * (1 - mean) / n)
    return n / min(max(effect, 1.0), n / count)


def mean_interval(values: ArrayLike, images: Sequence[str]) -> Interval:
    """The 95% interval of the mean of numbers in [0, 1], one a question: Wilson's, with the effective number."""
    array = np.asarray(values, dtype=np.float64)
    return wilson(float(array.mean()), effective_n(array, images))


@dataclass(frozen=True)
class Difference:
    """How much better the second model is on the same questions: mean, 95% interval, and two-sided p-value."""

    mean: float
    interval: Interval
    p_value: float


def paired_difference(before: ArrayLike, after: ArrayLike, images: Sequence[str]) -> Difference:
    """Compare two models, question by question; `before` and `after` are (n,) numbers in [0, 1].

    The interval is the expanded percentile bootstrap over images, with a fixed seed: the percentiles are taken so much
    further out that the interval of a mean is as wide as Student's t makes it (Hesterberg 2015, The American
    Statistician 69, 371). Where no two images differ, resampling them tells nothing, and the interval allows for the
    share of other images that could have been missed (Wilson's).
    """
    change, size = _by_image(np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64), images)
    change = change.round(9)  # where scores are fractions, what is no change may come out as 1e-17
    mean = float(change.sum() / size.sum())
    return Difference(mean, _bootstrap(change, size), sign_test(change))


def _bootstrap(change: NDArray[np.float64], size: NDArray[np.float64]) -> Interval:
    """The interval of sum(change) / sum(size), where images are drawn with replacement.

    How often images of each kind (with the same change and size) are drawn is multinomial: the same as drawing images
    one by one, and many times faster, since there are few kinds.
    """
    from scipy.stats import norm, t

    n = len(change)
    if n == 1:  # one image says nothing about other images
        return -1.0, 1.0
    kinds, counts = np.unique(np.stack([change, size], axis=1), axis=0, return_counts=True)
    each = kinds[:, 0] / kinds[:, 1]
    if np.ptp(each) == 0:
        missed = 1 - wilson(1.0, n)[0]
        rest = (1 - missed) * float(each[0])
        return max(-1.0, rest - missed), min(1.0, rest + missed)
    drawn = np.random.default_rng(0).multinomial(n, counts / n, size=RESAMPLES) @ kinds  # sums of change and of size
    tail = norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1))
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [tail, 1 - tail])
    return float(low), float(high)


def sign_test(change: ArrayLike) -> float:
    """The two-sided p-value of as uneven a split into images that got better and images that got worse.

    With one question an image it is McNemar's exact test (1947, Psychometrika 12, 153).
    """
    from scipy.stats import binomtest

    array = np.asarray(change)
    better, worse = int((array > 0).sum()), int((array < 0).sum())
    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def _by_image(values: NDArray[np.float64], images: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sum of the values and the number of questions of each image."""
    _, image = np.unique(np.asarray(images), return_inverse=True)
    return np.bincount(image, weights=values).astype(np.float64), np.bincount(image).astype(np.float64)


def pass_at_k(answers: int, right: int, k: int) -> float:
    """The probability that at least one of `k` answers is right, where `right` of `answers` were: unbiased.

    Chen et al. 2021, https://arxiv.org/abs/2107.03374.
    """
    return 1.0 - math.comb(answers - right, k) / math.comb(answers, k)


def questions_needed(discordant: float, difference: float) -> int:
    """How many questions (one an image) show a paired difference with a power of 80%, at p < 0.05 on two sides.

    `discordant` is the share of questions that only one of the two answers right (Connor 1987, Biometrics 43, 207).
    """
    share = max(discordant, difference)
    root = Z * math.sqrt(share) + POWER * math.sqrt(share - difference**2)
    return math.ceil((root / difference) ** 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, corrected for their number: below 0.05 for any of them only where that is unlikely for all.

    Holm 1979, Scandinavian Journal of Statistics 6, 65.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = largest
    return corrected
