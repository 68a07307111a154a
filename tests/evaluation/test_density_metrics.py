"""What densities are worth, on cases worked out by hand."""

import math

import pytest
import torch

from locdiff.evaluation import density_metrics
from locdiff.evaluation.summaries import density_scores


def on_equator(*degrees):
    return torch.tensor([(0, lon) for lon in degrees], dtype=torch.float64)


def test_bits_per_dimension_by_hand():
    log_prob = torch.tensor([-math.log(4 * math.pi), 0.0, 3 * math.log(2)])
    found = density_metrics.bits_per_dimension(log_prob).tolist()
    assert found == pytest.approx([1.2171, 0, -1], abs=1e-4)  # the uniform density; 1 and 8 per steradian


def test_localizability_by_hand():
    even = torch.full((48,), 1 / 48)
    half, one = torch.zeros(48), torch.zeros(48)
    half[:24], one[5] = 1 / 24, 1
    found = density_metrics.localizability(torch.stack([even, half, one])).tolist()
    uniform = -math.log2(4 * math.pi)  # -3.651
    assert found == pytest.approx([uniform, uniform + 1, uniform + math.log2(48)], abs=1e-5)


def test_precision_recall_density_and_coverage_by_hand():
    """Real locations at 0, 1, 2, 3 and 10 degrees: the third neighbours are 3, 2, 2, 3 and 9 degrees away.

    0.5 is nearer than that to 0, 1, 2 and 3, not to 10; 2.5 to all; 40, 50 and 60 to none. The third neighbours of
    these five are 49.5, 47.5, 37.5, 47.5 and 57.5 degrees away: each real location is nearer to 0.5.
    """
    found = density_metrics._prdc(on_equator(0.5, 2.5, 40, 50, 60), on_equator(0, 1, 2, 3, 10))
    assert found == pytest.approx({"precision": 2 / 5, "recall": 1, "density": (4 + 5) / 5 / 3, "coverage": 1})
    found = density_metrics._prdc(on_equator(0, 1, 2, 3), on_equator(0, 90, 91, 180))  # radii 3, 2, 2, 3: recall of 0
    assert found["recall"] == 1 / 4
    found = density_metrics._prdc(on_equator(0, 0.1, 0.2, 0.3), on_equator(0, 100, 101, 102, 103))
    assert found["coverage"] == 1 / 5 and found["precision"] == 1 and found["density"] == pytest.approx(1 / 3)


def test_a_distance_equal_to_that_of_the_third_neighbor_does_not_count(monkeypatch):
    radius = density_metrics.EARTH_RADIUS_KM
    monkeypatch.setattr(density_metrics, "great_circle_km", lambda a, b: (a - b)[..., 1].abs() * radius)
    found = density_metrics._prdc(on_equator(6, 106, 206, 306), on_equator(0, 1, 2, 3))  # 6 is 3 from 3
    assert found["precision"] == found["density"] == found["coverage"] == 0


def test_neighbors_are_found_across_the_antimeridian():
    real = on_equator(178, 179, -180, -179)
    found = density_metrics._prdc(on_equator(179.5, -179.5, 179.2, -179.2), real)
    assert found["precision"] == found["coverage"] == 1


def test_the_mean_over_chunks_in_their_order():
    generator = torch.Generator().manual_seed(0)
    real, fake = (60 * torch.rand(200, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    chunks = [density_metrics._prdc(fake[i : i + 10], real[i : i + 10]) for i in range(0, 200, 10)]
    found = density_metrics.manifold_metrics(fake, real)
    for name, value in found.items():
        assert value == pytest.approx(sum(chunk[name] for chunk in chunks) / 20)
    assert found != pytest.approx(density_metrics._prdc(fake, real))
    assert all(math.isnan(value) for value in density_metrics.manifold_metrics(fake[:40], real[:40]).values())


def test_the_scores_of_a_report_are_these():
    truth = on_equator(*range(100))
    found = {
        "calibration": torch.tensor([[0.0, 1, 1, 1, 1]] * 100),  # nats over uniform
        "localizability": torch.full((100,), -2.0),
        "samples": torch.stack([truth, truth + 40], dim=1),
    }
    scores = density_scores(found, truth)
    assert scores["bits_per_dimension"] == pytest.approx(1.2171, abs=1e-4) and scores["localizability"] == -2
    assert scores["precision"] == scores["recall"] == scores["coverage"] == 1
