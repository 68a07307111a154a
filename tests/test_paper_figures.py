"""The paper's figures and tables: what make_all.py writes, and the numbers behind it."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from locdiff import train
from reference.coordinates import EARTH_RADIUS_KM, great_circle_km
from reference.shdd import encode, evaluate

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "paper_figures"))  # where the script itself looks
make_all = importlib.import_module("make_all")
figure_3, figure_4b, table_3 = (make_all.ARTEFACTS[name] for name in ("figure_3", "figure_4b", "table_3"))
QUICK = ["figure_3", "table_3"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The output folder of a run of the script on the artefacts that take no time."""
    folder = tmp_path_factory.mktemp("figures") / "new" / "out"
    command = [sys.executable, "paper_figures/make_all.py", "--only", *QUICK, "--out", str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert all(f"{name}: computed in" in run.stdout for name in QUICK)
    return folder


@pytest.fixture(scope="module")
def coefficients():
    """Figure 4(b) at its full degree on few places; the time goes into the coefficients of Eq. 20."""
    return figure_4b.compute(places=200)


def test_the_index_shows_pictures_numbers_and_what_they_were_computed_from(out):
    assert {path.name for path in out.iterdir()} == {
        "index.md", "figure_3.npz", "figure_3.png", "figure_3.md", "table_3.npz", "table_3.md",
    }  # fmt: skip
    index = (out / "index.md").read_text()
    assert index.count("Verdict: reproduced") == 2 and "![figure 3](figure_3.png)" in index
    for text in ("| 15 | about 1300 | 1333 | 1767 | 419 |", "| 31 | about 640 | 645 | 882 | 104 |", "lat = 48.86"):
        assert text in index
    for text in ("| epochs | 500 | 500 | yes |", "| dimensions d at L = 31 | 1024 | 1024 | yes |", "scipy", "commit"):
        assert text in index
    assert "Not computed yet: `python paper_figures/make_all.py --only figure_4b`" in index
    assert (out / "figure_3.png").read_bytes()[:4] == b"\x89PNG"


def test_redraw_draws_again_without_computing(out, monkeypatch, capsys):
    for name in QUICK:
        monkeypatch.delattr(make_all.ARTEFACTS[name], "compute")
    before = (out / "index.md").read_text()
    (out / "figure_3.png").unlink()
    (out / "index.md").unlink()
    make_all.main(["--redraw", "--out", str(out)])
    assert (out / "figure_3.png").exists() and (out / "index.md").read_text() == before
    assert "figure_4b" not in capsys.readouterr().out


def test_list_names_everything_and_says_what_is_computed(out, capsys):
    make_all.main(["--list", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["figure_3", "computed"],
        ["figure_4b", "-"],
        ["table_3", "computed"],
    ]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--only", "figure_9"], ["figure_9", *make_all.ARTEFACTS]),
        (["--redraw"], ["not computed", *make_all.ARTEFACTS]),
        (["--redraw", "--only", "figure_4b"], ["not computed", "figure_4b"]),
        (["--out", __file__], ["cannot make the output folder"]),
    ],
)
def test_what_cannot_be_done_is_said_on_one_line(argv, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        make_all.main(["--out", str(tmp_path), *argv])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and all(part in lines[0] for part in said)


@pytest.mark.parametrize("l_max", [15, 23, 31])
def test_figure_3_widths_are_those_of_the_encoding(l_max):
    """Against F summed from the harmonics themselves, every 500 m along the meridian of a place."""
    lat = 48.86 + np.degrees(np.arange(0, 1000, 0.5) / EARTH_RADIUS_KM)
    line = np.stack([np.minimum(lat, 90), np.full_like(lat, 2.35)], axis=-1)
    F = evaluate(encode(line[0], l_max), encode(line, l_max))
    distance = great_circle_km(line[0], line)
    density, exponent = figure_3.half_maximum_km(l_max)
    assert abs(2 * distance[np.argmax(np.exp(F - F[0]) < 0.5)] - density) <= 1.0
    assert abs(2 * distance[np.argmax(F < F[0] / 2)] - exponent) <= 1.0
    assert figure_3.mass_within(density, l_max) == pytest.approx(0.5, abs=0.02)  # of a Gaussian peak exactly a half
    assert figure_3.mass_within(2 * np.pi * EARTH_RADIUS_KM * 0.999999, l_max) == pytest.approx(1)


def test_figure_3_map_has_its_scale_and_its_land():
    result = figure_3.compute(degrees=(15,), width_km=800, pixels=41)
    side = np.linspace(-400, 400, 41)
    inside = np.hypot(*np.meshgrid(side, side)) < result["density_km"][0] / 2
    np.testing.assert_array_equal(result["density"][0] > 0.5, inside)
    corners = {"SW": result["land"][0, 0], "SE": result["land"][0, -1], "NW": result["land"][-1, 0]}
    assert corners == {"SW": False, "SE": True, "NW": True}  # the Bay of Biscay, the Alps, Wales
    assert result["land"][20, 20]


def test_figure_4b_recurrence_keeps_its_bound_and_the_explicit_sum_does_not(coefficients):
    bound = np.sqrt((2 * np.arange(64) + 1) / (4 * np.pi))  # of the sum over m, the addition theorem
    largest = {name: figure_4b.largest_by_degree(coefficients[name]) for name in figure_4b.CURVES}
    assert (largest["recurrence"] <= 1.0001 * bound).all()
    assert largest["explicit64"][63] > 1e5 * bound[63] and largest["explicit32"][63] > 1e12 * bound[63]
    assert 38 <= figure_4b.first_wrong_degree(coefficients["explicit64_error"]) <= 47
    assert 15 <= figure_4b.first_wrong_degree(coefficients["explicit32_error"]) <= 23
    np.testing.assert_allclose(coefficients["explicit64"][: 30**2], coefficients["recurrence"][: 30**2], rtol=1e-3)


def test_figure_4b_draws_what_was_computed(coefficients, tmp_path):
    text, verdict = figure_4b.draw(coefficients, tmp_path)
    assert (tmp_path / "figure_4b.png").exists() and verdict.startswith("reproduced")
    for degree in (28, 40, 47, 50, 63):
        assert f"{figure_4b.largest_by_degree(coefficients['explicit64'])[degree]:.2g} |" in text


def test_table_3_says_so_if_the_preset_differs(monkeypatch, tmp_path):
    monkeypatch.setitem(train.PRESETS["paper"], "dropout", 0.25)
    text, verdict = table_3.draw(table_3.compute(), tmp_path)
    assert "| dropout | 0.3 | 0.25 | no |" in text and verdict == "differs in dropout."
