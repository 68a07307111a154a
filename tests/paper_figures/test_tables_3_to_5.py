"""Tables 3, 4 and 5: the training set-up, the gallery, and what a training step takes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import table_3
import table_4
import table_5
import torch
from context import Context
from scipy.spatial import cKDTree
from support.figures import csv_rows, holds, smoke_context

from locdiff.sphere.coordinates import to_unit_vector
from locdiff.training.settings import PRESETS
from reference.coordinates import great_circle_km

FOLDER = Path(table_5.__file__).parent


def test_table_3_says_so_if_the_preset_differs(monkeypatch, tmp_path):
    monkeypatch.setitem(PRESETS["paper"], "dropout", 0.25)
    _, claims = table_3.draw(table_3.compute(), tmp_path)
    assert [(c.claim, c.paper, c.ours) for c in claims if not c.holds] == [("dropout", "0.3", "0.25")]


def test_table_4_counts_the_places_around():
    rng = np.random.default_rng(0)
    places, gallery = (np.stack([rng.uniform(40, 41, n), rng.uniform(5, 6, n)], axis=-1) for n in (60, 3000))
    distance = great_circle_km(places[:, None], gallery)
    ones, many = [(distance <= radius).sum(axis=1) for radius in (1, 25)]
    expected = [ones >= 1, ones > 10, ones > 50, ones > 100, many >= 1, many >= 10, many >= 50, many >= 100]
    xyz = [to_unit_vector(torch.from_numpy(part)).numpy() for part in (places, gallery)]
    found = table_4.cells(cKDTree(xyz[1]), xyz[0])
    np.testing.assert_allclose(found, [100 * part.mean() for part in expected])
    assert 0 < found[0] < 100 and 0 < found[7] <= 100


@pytest.mark.skipif(not os.environ.get("LOCDIFF_IM2GPS3K"), reason="LOCDIFF_IM2GPS3K does not name the file")
def test_table_4_equals_the_papers(tmp_path):
    context = Context("cpu", "", os.environ["LOCDIFF_IM2GPS3K"], tmp_path)
    result = table_4.compute(context, turns=20)
    np.testing.assert_allclose(result["cells"][0], table_4.PAPER["MP16"], atol=0.05)
    text, claims = table_4.draw(result, tmp_path)
    assert holds(claims) == [True, True]
    assert "| MP16 | 100000 | 63.5 | 32.7 | 14.9 | 9.8 | 95.2 | 75.7 | 51.9 | 42.0 |" in text


def test_table_4_says_what_the_shares_say():
    row = np.array(table_4.PAPER["MP16"])
    assert holds(table_4.claims(row + 0.05, 98_304, 38.0, 36.0, 39.0)) == [True, True]
    row[4] += 0.2
    assert holds(table_4.claims(row, 98_304, 38.0, 36.0, 38.5)) == [False, False]


def test_table_5_measures_steps_and_the_memory_of_each_process_alone(tmp_path):
    held = np.ones(2**27)  # 1 GiB, which is not the memory of the processes that are measured
    result = table_5.compute(smoke_context(tmp_path))
    assert len(held) and (result["before"] < 1000).all() and (result["peak"] > result["before"]).all()
    assert result["seconds"].shape == (2, 3) and (result["seconds"] > 0).all()
    assert result["parameters"][0] == result["parameters"][1]  # the same network
    text, claims = table_5.draw(result, tmp_path)
    assert holds(claims) == [None] and "| 7 | 64 |" in text
    for row, seconds in zip(csv_rows(tmp_path / "table_5.csv"), result["seconds"], strict=True):
        assert float(row["seconds of 1500 steps"]) == pytest.approx(1500 * sorted(seconds)[1])
        assert float(row["most"]) == pytest.approx(1500 * max(seconds))


def test_table_5_peak_memory_grows_with_what_is_held():
    code = (
        "import torch, table_5; cpu = torch.device('cpu'); before = table_5.peak_mb(cpu); x = torch.ones(2**26); "
        "after = table_5.peak_mb(cpu); del x; print(after - before, table_5.peak_mb(cpu) - after)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, check=True)
    grown, afterwards = map(float, run.stdout.split())
    assert grown == pytest.approx(256, abs=8) and afterwards == pytest.approx(0, abs=1)


def test_table_5_says_what_the_memory_says():
    costs = {15: (100, 50, 10**6), 31: (250, 200, 4 * 10**6)}
    (untold,) = table_5.claims(costs)
    assert untold.holds is None and untold.ours.startswith("no degree above 31 was tried")
    (cannot,) = table_5.claims(costs | {47: (900, 25_000, 10**7)})
    (can,) = table_5.claims(costs | {47: (900, 24_000, 10**7)})
    assert cannot.holds is True and can.holds is False
    assert "24,000 MB" in can.ours and "191 for 10.0 M parameters" in can.ours
    for claim in (untold, can):
        assert "from L = 15 to 31 time grows 2.5 times and memory 4.0 times" in claim.ours
        assert "from L = 15 to 31 time grows 3.0 times and memory 3.1 times" in claim.paper
