"""Intervals: known values, invariances, agreement with a naive loop, and calibration by simulation."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from migrl.statistics.intervals import (
    adjust_for_many,
    bootstrap_macro,
    bootstrap_macro_delta,
    bootstrap_over_seeds,
    normal_macro,
    wilson_interval,
    wilson_over_clusters,
)


def simulate(
    generator: np.random.Generator, first_rate: float, second_rate: float, tasks: int = 3, clusters: int = 60
) -> tuple[list[bool], list[bool], list[str], list[str]]:
    """Two arms on tasks of clusters of 1 to 3 questions; a cluster's ease moves both arms and all its questions."""
    first: list[bool] = []
    second: list[bool] = []
    names: list[str] = []
    ids: list[str] = []
    for task in range(tasks):
        for cluster in range(clusters):
            ease = generator.uniform(-0.25, 0.25)
            for _ in range(1 + cluster % 3):
                first.append(bool(generator.random() < first_rate + ease))
                second.append(bool(generator.random() < second_rate + ease))
                names.append(f"task {task}")
                ids.append(f"cluster {cluster}")
    return first, second, names, ids


def resample_naively(
    values: list[int], tasks: list[str], clusters: list[str], resamples: int
) -> npt.NDArray[np.float64]:
    """The definition, one cluster at a time: draw as many clusters of each task as it has, pool, average."""
    generator = np.random.default_rng(1)
    results = []
    for _ in range(resamples):
        accuracies = []
        for task in sorted(set(tasks)):
            units = sorted({c for t, c in zip(tasks, clusters, strict=True) if t == task})
            pool: list[int] = []
            for drawn in generator.choice(units, size=len(units)):
                pool += [v for v, t, c in zip(values, tasks, clusters, strict=True) if (t, c) == (task, drawn)]
            accuracies.append(sum(pool) / len(pool))
        results.append(100 * sum(accuracies) / len(accuracies))
    return np.array(results)


@settings(deadline=None)
@given(n=st.integers(1, 5000), share=st.floats(0, 1))
def test_wilson_agrees_with_scipy(n: int, share: float) -> None:
    hits = round(n * share)
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson_interval(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("sets", "size"), [(85, 2), (20, 4), (6, 5)])
@pytest.mark.parametrize("share", [0.03, 0.4])
def test_an_accuracy_over_image_sets_is_covered_where_wilson_over_samples_is_not(
    sets: int, size: int, share: float
) -> None:
    generator, covered, narrow, runs = np.random.default_rng(7), 0, 0, 400
    clusters = [str(number) for number in range(sets) for _ in range(size)]
    for _ in range(runs):
        alike = np.repeat(generator.random(sets) < share, size)
        own = generator.random(sets * size) < share
        hits = np.where(np.repeat(generator.random(sets) < 0.8, size), alike, own)
        for interval, wanted in (
            (wilson_over_clusters(hits, clusters), True),
            (wilson_interval(hits.sum(), hits.size), False),
        ):
            inside = interval[0] <= share <= interval[1]
            covered, narrow = covered + (inside and wanted), narrow + (inside and not wanted)
    assert covered >= 0.93 * runs and narrow < 0.9 * runs


@settings(deadline=None)
@given(flags=st.lists(st.booleans(), min_size=2, max_size=60), size=st.integers(1, 4))
def test_an_interval_over_image_sets_holds_the_accuracy_and_does_not_change_when_every_answer_comes_twice(
    flags: list[bool], size: int
) -> None:
    clusters = [str(number // size) for number in range(len(flags))]
    low, high = wilson_over_clusters(flags, clusters)
    assert 0 <= low <= sum(flags) / len(flags) <= high <= 1 and low < high
    assert wilson_over_clusters(flags * 2, clusters * 2) == pytest.approx((low, high))
    if len(set(flags)) == 1:
        units = len(set(clusters))
        assert (low, high) == wilson_interval(units if flags[0] else 0, units)


def test_a_delta_of_identical_arms_is_zero_with_zero_width() -> None:
    hits, _, tasks, clusters = simulate(np.random.default_rng(0), 0.5, 0.5)
    interval = bootstrap_macro_delta(hits, hits, tasks, clusters)
    assert (interval.delta, interval.low, interval.high, interval.standard_error) == (0, 0, 0, 0)


def test_a_macro_average_weighs_small_and_large_tasks_alike() -> None:
    tasks, clusters = ["small"] * 2 + ["large"] * 98, [str(i) for i in range(100)]
    interval = bootstrap_macro([True] * 2 + [False] * 98, tasks, clusters)
    assert (interval.macro, interval.low, interval.high) == (50, 50, 50)


def test_the_vectorised_bootstrap_agrees_with_a_naive_loop() -> None:
    first, second, tasks, clusters = simulate(np.random.default_rng(5), 0.6, 0.4, tasks=2, clusters=30)
    naive = resample_naively(
        [int(a) - int(b) for a, b in zip(first, second, strict=True)], tasks, clusters, resamples=2000
    )
    interval = bootstrap_macro_delta(first, second, tasks, clusters)
    # The interval is expanded for 30 clusters a task; 0.021 is the share that makes of 0.025.
    assert interval.standard_error == pytest.approx(float(np.std(naive, ddof=1)) * (30 / 29) ** 0.5, rel=0.05)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(naive, [0.021, 0.979])), abs=1.5)


def test_few_clusters_make_an_interval_wider_than_their_own_spread() -> None:
    """For a mean of k equal clusters the ends are about those of Student's interval."""
    hits = [True] * 6 + [False] * 6
    interval = bootstrap_macro(hits, ["t"] * 12, [str(i) for i in range(12)])
    student = 2.201 * (0.25 * 12 / 11 / 12) ** 0.5  # t(11) times the standard error of the mean
    assert interval.high - 50 == pytest.approx(100 * student, abs=4)  # a step of the mean is 8.3 points
    assert interval.standard_error == pytest.approx(100 * (0.25 / 11) ** 0.5, rel=0.03)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(24)))
def test_the_order_of_the_samples_does_not_matter(order: list[int]) -> None:
    first, second, tasks, clusters = simulate(np.random.default_rng(3), 0.6, 0.4, tasks=2, clusters=6)

    def shuffle(values: list[Any]) -> list[Any]:
        return [values[i] for i in order]

    plain = bootstrap_macro_delta(first, second, tasks, clusters, resamples=100)
    mixed = bootstrap_macro_delta(shuffle(first), shuffle(second), shuffle(tasks), shuffle(clusters), resamples=100)
    assert mixed == plain


def test_swapping_the_arms_turns_the_sign() -> None:
    first, second, tasks, clusters = simulate(np.random.default_rng(4), 0.6, 0.4)
    there = bootstrap_macro_delta(first, second, tasks, clusters)
    back = bootstrap_macro_delta(second, first, tasks, clusters)
    assert back.delta == pytest.approx(-there.delta)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=0.5)


def test_questions_over_the_same_pictures_count_less_than_independent_ones() -> None:
    hits = [i % 2 == 0 for i in range(50) for _ in range(4)]
    together = bootstrap_macro(hits, ["t"] * 200, [str(i) for i in range(50) for _ in range(4)])
    alone = bootstrap_macro(hits, ["t"] * 200, [str(i) for i in range(200)])
    assert together.standard_error == pytest.approx(2 * alone.standard_error, rel=0.05)


def test_a_cluster_id_in_two_tasks_is_a_unit_in_each() -> None:
    interval = bootstrap_macro([True, False, True, False], ["a", "a", "b", "b"], ["x", "y", "x", "y"])
    assert (interval.n, interval.clusters) == (4, 4)


@pytest.mark.parametrize(
    ("hits", "tasks", "clusters", "reason"),
    [
        ([], [], [], "no samples"),
        ([True, False], ["t", "t"], ["x", "x"], "single cluster"),
        ([True, False], ["t"], ["x", "y"], "one per sample"),
    ],
)
def test_data_without_an_interval_is_refused(
    hits: list[bool], tasks: list[str], clusters: list[str], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        bootstrap_macro(hits, tasks, clusters)


@pytest.mark.parametrize(("first_rate", "second_rate"), [(0.5, 0.5), (0.6, 0.5), (0.7, 0.3)])
def test_the_95_percent_interval_covers_the_true_delta_as_often_as_it_says(
    first_rate: float, second_rate: float
) -> None:
    generator = np.random.default_rng(7)
    truth, runs = 100 * (first_rate - second_rate), 300
    covered = above = 0
    for _ in range(runs):
        interval = bootstrap_macro_delta(*simulate(generator, first_rate, second_rate), resamples=200)
        covered += interval.low <= truth <= interval.high
        above += interval.low > truth
    # Four binomial standard errors on both sides; "above" is the false alarm of a claim with a true delta of 0.
    assert abs(covered / runs - 0.95) < 4 * (0.95 * 0.05 / runs) ** 0.5
    assert above / runs < 0.025 + 4 * (0.025 * 0.975 / runs) ** 0.5


def test_on_hits_the_normal_interval_is_the_bootstraps_up_to_its_noise() -> None:
    hits, _, tasks, clusters = simulate(np.random.default_rng(5), 0.5, 0.5)
    normal, drawn = normal_macro([float(hit) for hit in hits], tasks, clusters), bootstrap_macro(hits, tasks, clusters)
    assert normal.macro == pytest.approx(drawn.macro)
    assert (normal.n, normal.clusters) == (drawn.n, drawn.clusters)
    # 10,000 draws fix a standard error to 0.7 %, and an end of the interval to 0.03 of one.
    assert normal.standard_error == pytest.approx(drawn.standard_error, rel=0.04)
    for end in ("low", "high"):
        assert getattr(normal, end) == pytest.approx(getattr(drawn, end), abs=0.2 * drawn.standard_error)


def test_the_normal_interval_covers_a_mean_iou_as_often_as_it_says() -> None:
    generator, covered, runs = np.random.default_rng(6), 0, 400
    tasks = [f"task {task}" for task in range(3) for _ in range(120)]
    clusters = [f"cluster {index // 2}" for index in range(360)]
    for _ in range(runs):
        ease = np.repeat(generator.uniform(-0.2, 0.2, 180), 2)
        values = 0.5 + ease + generator.uniform(-0.3, 0.3, 360)  # the true mean is 50 %
        interval = normal_macro(values, tasks, clusters)
        covered += interval.low <= 50 <= interval.high
    low, high = wilson_interval(covered, runs, 0.999)
    assert low < 0.95 < high


def test_weights_say_what_each_task_counts() -> None:
    first, second, tasks, clusters = simulate(np.random.default_rng(4), 0.6, 0.4)
    alike = bootstrap_macro_delta(first, second, tasks, clusters)
    weighed = bootstrap_macro_delta(first, second, tasks, clusters, weights=dict.fromkeys(tasks, 7.0))
    assert weighed.delta == pytest.approx(alike.delta) and weighed.low == pytest.approx(alike.low)
    alone = bootstrap_macro_delta(
        first, second, tasks, clusters, weights={name: float(name == "task 1") for name in tasks}
    )
    places = [index for index, task in enumerate(tasks) if task == "task 1"]
    assert alone.delta == pytest.approx(100 * sum(first[i] - second[i] for i in places) / len(places))
    with pytest.raises(ValueError, match="no weight"):
        bootstrap_macro_delta(first, second, tasks, clusters, weights={"task 1": 1.0})


def test_a_p_value_is_small_where_the_interval_excludes_zero_and_only_there() -> None:
    generator = np.random.default_rng(9)
    for rate in (0.4, 0.45, 0.5, 0.55, 0.6):
        interval = bootstrap_macro_delta(*simulate(generator, rate, 0.5))
        assert (interval.p_value < 0.05) == (interval.low > 0 or interval.high < 0)
        assert interval.low < interval.inner_low < interval.inner_high < interval.high


def test_holm_adjusts_as_in_his_example_and_never_below_the_p_value() -> None:
    assert adjust_for_many([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_for_many([]) == [] and adjust_for_many([0.7, 0.9]) == [1.0, 1.0]


def simulate_seeds(
    generator: np.random.Generator, k: int, spread: float, n: int = 300
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], list[str], list[str]]:
    """k trainings of one recipe whose gain varies by `spread`, on samples of varied ease, against a fixed base."""
    ease = generator.uniform(0.3, 0.6, n)
    gains = 0.1 + generator.normal(0, spread, k)
    first = np.array([generator.random(n) < ease + gain + generator.uniform(-0.15, 0.15, n) for gain in gains])
    second = np.repeat((generator.random(n) < ease)[None], k, axis=0)
    return first, second, ["t"] * n, [str(index) for index in range(n)]


@pytest.mark.parametrize(("k", "spread"), [(2, 0.1), (3, 0.0), (3, 0.05), (3, 0.16), (5, 0.02)])
def test_the_interval_over_seeds_covers_the_recipes_true_delta_as_often_as_it_says(k: int, spread: float) -> None:
    generator, covered, runs = np.random.default_rng(8), 0, 300
    for _ in range(runs):
        interval = bootstrap_over_seeds(*simulate_seeds(generator, k, spread), resamples=200)
        covered += interval.low <= 10 <= interval.high
    # Never below, by three binomial standard errors; above it may be, where seeds hardly differ and few show that.
    assert covered / runs > 0.95 - 3 * (0.95 * 0.05 / runs) ** 0.5


def test_over_seeds_the_p_value_fits_the_interval() -> None:
    generator, fits = np.random.default_rng(3), []
    for _ in range(40):
        interval = bootstrap_over_seeds(*simulate_seeds(generator, 3, 0.05), resamples=200)
        assert interval.low < interval.inner_low < interval.inner_high < interval.high
        fits.append((interval.p_value < 0.05) == (interval.low > 0))
    assert all(fits)


def test_samples_alone_would_cover_too_seldom_where_seeds_differ() -> None:
    generator, covered, runs = np.random.default_rng(8), 0, 200
    for _ in range(runs):
        first, second, tasks, clusters = simulate_seeds(generator, 1, 0.05)
        interval = bootstrap_macro_delta(first[0], second[0], tasks, clusters, resamples=200)
        covered += interval.low <= 10 <= interval.high
    assert covered / runs < 0.90


def test_one_training_seed_has_no_spread() -> None:
    first, second, tasks, clusters = simulate_seeds(np.random.default_rng(1), 1, 0.0)
    with pytest.raises(ValueError, match="at least 2 training seeds"):
        bootstrap_over_seeds(first, second, tasks, clusters)
