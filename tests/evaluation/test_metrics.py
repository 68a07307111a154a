"""Scores on cases worked out by hand, and the table."""

import math

import numpy as np
import pytest
import torch

from locdiff.evaluation import metrics
from locdiff.sphere import pixels
from locdiff.sphere.coordinates import EARTH_RADIUS_KM

DEGREE_KM = math.pi * EARTH_RADIUS_KM / 180  # 111.195


def places(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_accuracy_median_and_geoscore_by_hand():
    truth = places((0, 0), (0, 0), (0, 0), (0, 0))
    guess = places((0, 0), (0.1, 0), (0, 5), (0, 180))  # 0, 11.1, 556 and 20,015 km away
    scores = metrics.score(guess, truth)
    assert scores["accuracy"] == {1: 25, 25: 50, 200: 50, 750: 75, 2500: 75}
    assert scores["median_km"] == pytest.approx((0.1 + 5) / 2 * DEGREE_KM)
    expected = sum(5000 * math.exp(-degrees * DEGREE_KM / 1492.7) for degrees in (0, 0.1, 5, 180)) / 4
    assert scores["geoscore"] == pytest.approx(expected)
    assert (scores["failed"], scores["count"]) == (0, 4)


def test_a_distance_equal_to_the_threshold_is_right(monkeypatch):
    monkeypatch.setattr(metrics, "great_circle_km", lambda *_: torch.tensor([200.0, 200.000001], dtype=torch.float64))
    assert metrics.score(places((0, 0), (0, 0)), places((0, 0), (0, 0)))["accuracy"][200] == 50


def test_each_threshold_is_scored_by_its_own_prediction():
    degrees = (0.0, 0.3, 1.0, 7.0, 20.0)  # 0, 33, 111, 778 and 2,224 km off: too far at 25 and at 750 km
    own = torch.stack([places((0, d)) for d in degrees], dim=1)
    assert metrics.score_each(own, places((0, 0)))["accuracy"] == {1: 100, 25: 0, 200: 100, 750: 0, 2500: 100}


def test_failed_predictions_are_misses_and_counted():
    truth = places((0, 0), (0, 0), (0, 0))
    scores = metrics.score(places((0, 0), (math.nan, 0), (math.inf, math.nan)), truth)
    assert scores["accuracy"][2500] == pytest.approx(100 / 3)
    assert scores["failed"] == 2 and scores["median_km"] == math.inf
    assert scores["geoscore"] == pytest.approx(5000 / 3)
    assert "2 of 3 (guess)" in metrics.table({"guess": scores})


def test_no_predictions_give_no_score():
    scores = metrics.score(torch.empty(0, 2), torch.empty(0, 2))
    assert scores["count"] == 0 and math.isnan(scores["accuracy"][1]) and math.isnan(scores["median_km"])


def test_the_table_has_a_row_for_each_method():
    rows = {
        "ours": metrics.score(places((0, 0)), places((0, 0))),
        "mass": {"accuracy": dict.fromkeys(pixels.THRESHOLDS_KM, 12.34)},
    }
    lines = metrics.table(rows).splitlines()
    assert lines[2] == "| ours | 100.0 | 100.0 | 100.0 | 100.0 | 100.0 | 0 | 5000 |"
    assert lines[3] == "| mass | 12.3 | 12.3 | 12.3 | 12.3 | 12.3 |  |  |"


def test_hits_are_the_accuracy_picture_by_picture():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(200, 2, generator=generator, dtype=torch.float64) * 60
    guess = truth + torch.randn(200, 2, generator=generator, dtype=torch.float64) * 3
    guess[0] = torch.nan
    right = metrics.hits(guess, truth)
    accuracy = metrics.score(guess, truth)["accuracy"]
    assert (100 * right.double().mean(dim=0)).tolist() == pytest.approx(list(accuracy.values())) and not right[0].any()
    each = torch.stack([truth + k for k in range(5)], dim=1)
    expected = metrics.score_each(each, truth)["accuracy"]
    assert (100 * metrics.hits(each, truth).double().mean(dim=0)).tolist() == pytest.approx(list(expected.values()))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_bootstrap_interval_is_that_of_the_binomial_distribution(share):
    n = 2000
    values = np.stack([np.arange(n) < share * n, np.ones(n, dtype=bool)], axis=-1)
    low, high = metrics.bootstrap(values, resamples=2000)
    half = 1.96 * np.sqrt(share * (1 - share) / n)
    assert low[0] == pytest.approx(share - half, abs=0.15 * half) and high[0] == pytest.approx(
        share + half, abs=0.15 * half
    )
    assert low[1] == high[1] == 1
    np.testing.assert_array_equal(metrics.bootstrap(values, 50, seed=3), metrics.bootstrap(values, 50, seed=3))
    assert (metrics.bootstrap(values, 50, seed=3)[0] != metrics.bootstrap(values, 50, seed=4)[0]).any()


def test_the_bootstrap_keeps_pictures_together_and_refuses_none():
    values = np.random.default_rng(0).random((300, 2))
    both = metrics.bootstrap(np.stack([values, values], axis=-1))
    np.testing.assert_allclose(both[..., 0], both[..., 1], rtol=1e-12)
    with pytest.raises(ValueError, match="no pictures"):
        metrics.bootstrap(values[:0])


def test_the_interval_of_accuracies_is_that_of_the_bootstrap_of_hits():
    truth = places(*[(0, 0)] * 40)
    guess = places(*[(0, 0.05), (0, 3)] * 20)  # 5.6 and 333.6 km away: half within 25 km, all within 750 km
    interval = metrics.interval(guess, truth)
    assert list(interval) == list(pixels.THRESHOLDS_KM) and interval[1] == [0, 0] and interval[750] == [100, 100]
    low, high = interval[25]
    assert 30 < low < 50 < high < 70
    wide = metrics.interval(guess, truth, ["a", "b"] * 20)  # two photographers, of whom one is always right
    assert wide[25] == [0, 100]
    each = guess[:, None].repeat(1, len(pixels.THRESHOLDS_KM), 1)
    assert metrics.interval(each, truth) == interval


def test_columns_on_request_by_hand():
    truth = places((0, 0), (0, 0), (0, 0), (0, 0))
    guess = places((0, 0.05), (0, 0.5), (0, 8), (0, 20))  # 5.6, 55.6, 889.6 and 2,223.9 km away
    columns = metrics.Columns(thresholds=(5, 10, 100, 1000), mean=True)
    scores = metrics.score(guess, truth, columns)
    expected = {1: 0, 5: 0, 10: 25, 25: 25, 100: 50, 200: 50, 750: 50, 1000: 75, 2500: 100}
    assert scores["accuracy"] == expected and list(scores["accuracy"]) == list(expected)
    assert scores["mean_km"] == pytest.approx((0.05 + 0.5 + 8 + 20) / 4 * DEGREE_KM)
    assert metrics.score(guess * math.nan, truth, columns)["mean_km"] == math.inf  # a miss is never dropped
    lines = metrics.table({"guess": scores, "other": metrics.score(guess, truth)}, columns).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")][2:-1] == [
        "1 km", "5 km", "10 km", "25 km", "100 km", "200 km", "750 km", "1000 km", "2500 km",
        "median km", "GeoScore", "mean km",
    ]  # fmt: skip
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert metrics.score(guess, truth).keys() == {"accuracy", "median_km", "geoscore", "failed", "count"}
