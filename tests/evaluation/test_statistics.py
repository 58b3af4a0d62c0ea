"""Intervals and p-values against scipy's, and what must hold for any numbers."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap

from evaluation.metrics.statistics import (
    effective_n,
    holm,
    mean_interval,
    paired_difference,
    pass_at_k,
    questions_needed,
    sign_test,
    wilson,
)

counts = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
answers = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 9)), min_size=2, max_size=60)


def names(images: object) -> list[str]:
    return [f"image-{i}" for i in images]  # type: ignore[attr-defined]


@given(counts)
def test_wilson_is_scipys(count: tuple[int, int]) -> None:
    right, n = count
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.floats(0, 1), st.floats(1, 1e6))
def test_wilson_holds_the_mean_and_stays_in_range(mean: float, n: float) -> None:
    low, high = wilson(mean, n)
    assert 0 <= low <= mean <= high <= 1
    assert low < high


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_one_question_an_image_is_plain_wilson(right: list[bool]) -> None:
    assert effective_n(right, names(range(len(right)))) == len(right)
    assert mean_interval(right, names(range(len(right)))) == wilson(np.mean(right), len(right))


@given(st.lists(st.booleans(), min_size=2, max_size=200))
def test_asking_the_same_twice_teaches_nothing(right: list[bool]) -> None:
    images = names(range(len(right)))
    assert mean_interval(right * 2, images * 2) == pytest.approx(mean_interval(right, images), abs=1e-12)


@given(answers)
def test_effective_n_lies_between_images_and_questions(rows: list[tuple[bool, bool, int]]) -> None:
    right, images = [row[0] for row in rows], names(row[2] for row in rows)
    assert len(set(images)) - 1e-9 <= effective_n(right, images) <= len(rows) + 1e-9


def test_interval_covers_the_truth_when_answers_to_one_image_agree() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        misread = rng.random(200) < 0.3  # an image that is misread gets both of its questions wrong, nine times in ten
        right = np.where(rng.random((2, 200)) < 0.9, ~misread, rng.random((2, 200)) < 0.7).ravel()
        low, high = mean_interval(right, names(range(200)) * 2)
        covered.append(low <= 0.7 <= high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_difference_by_hand() -> None:
    before = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    after = [1, 1, 1, 1, 1, 0, 0, 1, 1, 1]
    found = paired_difference(before, after, names(range(10)))
    assert found.mean == pytest.approx(0.4)
    assert found.p_value == pytest.approx(2 * (6 + 1) / 2**6)  # 5 of 6 flips are gains
    assert found.interval[0] <= 0 < found.interval[1]


def test_bootstrap_agrees_with_the_normal_interval_where_there_are_many() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.random(4000) < 0.5, rng.random(4000) < 0.7
    change = after.astype(float) - before
    half = 1.96 * change.std() / np.sqrt(4000)
    found = paired_difference(before, after, names(range(4000)))
    assert found.interval == pytest.approx((change.mean() - half, change.mean() + half), abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(answers)
def test_difference_of_swapped_sides(rows: list[tuple[bool, bool, int]]) -> None:
    before, after, images = ([row[i] for row in rows] for i in range(3))
    one, other = paired_difference(before, after, names(images)), paired_difference(after, before, names(images))
    assert one.mean == pytest.approx(-other.mean)
    assert one.p_value == other.p_value
    assert one == paired_difference(before, after, names(images))
    assert -1 <= one.interval[0] <= one.interval[1] <= 1


def test_questions_about_one_image_count_once() -> None:
    rng = np.random.default_rng(2)
    before, after = rng.random(100) < 0.5, rng.random(100) < 0.6
    once = paired_difference(before, after, names(range(100)))
    thrice = paired_difference(np.tile(before, 3), np.tile(after, 3), names(range(100)) * 3)
    assert thrice == once


def test_one_image_alone_says_nothing() -> None:
    assert paired_difference([0, 0], [1, 1], ["a", "a"]).interval == (-1.0, 1.0)


def test_nothing_changed() -> None:
    found = paired_difference([1, 0, 1], [1, 0, 1], ["a", "b", "c"])
    assert (found.mean, found.p_value) == (0.0, 1.0)
    assert found.interval == pytest.approx((-missed(3), missed(3)))  # three images: many others may have changed


def test_fractions_that_cancel_out_are_no_change() -> None:
    before, after = [1 / 3] * 60, [1.0, 0.0, 0.0] * 20  # three questions an image: the same sum
    found = paired_difference(before, after, names(i // 3 for i in range(60)))
    assert (found.mean, found.p_value) == (0.0, 1.0)


def test_everything_changed() -> None:
    found = paired_difference([0] * 40, [1] * 40, names(range(40)))
    assert found.interval == pytest.approx((1 - 2 * missed(40), 1))
    assert found.interval[0] > 0.8


def missed(images: int) -> float:
    """The share of images of another kind that Wilson's interval allows for where none was seen."""
    return binomtest(0, images).proportion_ci(method="wilson").high


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=100))
def test_sign_test_is_mcnemars(change: list[int]) -> None:
    better, worse = change.count(1), change.count(-1)
    expected = binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert sign_test(change) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_that_of_statistics_books(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p_value <= now <= 1 for p_value, now in zip(p_values, corrected, strict=True))
    assert min(corrected) == min(1.0, min(p_values) * len(p_values))
    ranked = [now for _, now in sorted(zip(p_values, corrected, strict=True))]
    assert ranked == sorted(ranked)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize(("answers", "right", "k"), [(4, 1, 1), (4, 1, 2), (5, 3, 3), (4, 0, 4), (4, 4, 1), (6, 2, 4)])
def test_pass_at_k_counts_the_choices(answers: int, right: int, k: int) -> None:
    choices = list(combinations([True] * right + [False] * (answers - right), k))
    assert pass_at_k(answers, right, k) == pytest.approx(sum(map(any, choices)) / len(choices))


@pytest.mark.parametrize(("share", "alike"), [(0.5, 0.0), (0.9, 0.0), (0.7, 0.6)])
def test_intervals_hold_the_truth_in_95_of_100_runs(share: float, alike: float) -> None:
    """Two questions an image; with probability `alike` the answer to the second is that to the first."""
    rng = np.random.default_rng(1)
    images = names(np.repeat(np.arange(250), 2))
    held = 0
    for _ in range(2000):
        answers = rng.random((250, 2)) < share
        copied = rng.random(250) < alike
        answers[copied, 1] = answers[copied, 0]
        low, high = mean_interval(answers.ravel(), images)
        held += low <= share <= high
    assert 0.94 <= held / 2000 <= 0.96


def test_the_questions_needed_show_the_difference_four_times_of_five() -> None:
    better, worse = 0.15, 0.10
    n = questions_needed(better + worse, better - worse)
    rng = np.random.default_rng(0)
    changes = rng.choice([1, -1, 0], p=[better, worse, 1 - better - worse], size=(400, n))
    shown = np.mean([sign_test(change) < 0.05 for change in changes])
    assert 0.74 < shown < 0.85


@pytest.mark.slow
@pytest.mark.parametrize(("images", "better", "worse", "alike"), [(250, 0.05, 0.02, 0.6), (40, 0.3, 0.1, 0.6)])
def test_intervals_of_a_difference_hold_the_truth_in_95_of_100_runs(
    images: int, better: float, worse: float, alike: float
) -> None:
    """Two questions an image, 60% right before; with probability `alike` the second fares as the first, both times."""
    rng = np.random.default_rng(3)
    about = names(np.repeat(np.arange(images), 2))
    truth, held = 0.4 * better - 0.6 * worse, 0
    for _ in range(2000):
        before = rng.random((images, 2)) < 0.6
        after = before ^ (rng.random((images, 2)) < np.where(before, worse, better))
        copied = rng.random(images) < alike
        before[copied, 1], after[copied, 1] = before[copied, 0], after[copied, 0]
        low, high = paired_difference(before.ravel(), after.ravel(), about).interval
        held += low - 1e-9 <= truth <= high + 1e-9  # the truth may be a number that a run can give
    assert 0.94 <= held / 2000 <= 0.96


def test_the_bootstrap_is_scipys() -> None:
    """Ours draws kinds of images, scipy's draws images: the same distribution, but for the luck of the draw."""
    rng = np.random.default_rng(4)
    before, after, images = rng.random(600) < 0.5, rng.random(600) < 0.6, np.arange(600) % 200
    change = [(after.astype(float) - before)[images == image] for image in range(200)]
    expected = bootstrap(
        ([one.sum() for one in change],),
        lambda sums, axis: sums.sum(axis=axis) / 600,
        method="percentile",
        n_resamples=100_000,
        batch=1000,
        rng=rng,
    ).confidence_interval
    assert paired_difference(before, after, names(images)).interval == pytest.approx(expected, abs=3e-3)
