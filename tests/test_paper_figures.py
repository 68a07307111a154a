"""The paper's figures and tables: what make_all.py writes, and the numbers behind it."""

import csv
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from locdiff import baselines, datasets, decoder, train
from locdiff import evaluate as evaluation
from locdiff.cli import InputError
from locdiff.coordinates import geographic_center, to_unit_vector
from locdiff.coordinates import great_circle_km as torch_distance
from reference.coordinates import EARTH_RADIUS_KM, great_circle_km
from reference.shdd import encode, evaluate

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "paper_figures"))  # where the script itself looks
make_all = importlib.import_module("make_all")
figure_3, figure_4b, table_1, table_2, table_3, table_4 = (
    make_all.ARTEFACTS[name] for name in ("figure_3", "figure_4b", "table_1", "table_2", "table_3", "table_4")
)
comparison, context_module = importlib.import_module("comparison"), importlib.import_module("context")
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
        "index.md", "index.html", "figure_3.npz", "figure_3.png", "figure_3.md", "table_3.npz", "table_3.md",
    }  # fmt: skip
    index = (out / "index.md").read_text()
    assert index.count("Verdict: reproduced") == 2 and "![figure 3](figure_3.png)" in index
    for text in ("| 15 | about 1300 | 1333 | 1767 | 419 |", "| 31 | about 640 | 645 | 882 | 104 |", "lat = 48.86"):
        assert text in index
    for text in ("| epochs | 500 | 500 | yes |", "| dimensions d at L = 31 | 1024 | 1024 | yes |", "scipy", "commit"):
        assert text in index
    assert "Not computed yet: `python paper_figures/make_all.py --only figure_4b`" in index
    assert (out / "figure_3.png").read_bytes()[:4] == b"\x89PNG"
    page = (out / "index.html").read_text()
    assert '<img alt="figure 3" src="figure_3.png"' in page and "<td>1767</td>" in page
    assert all(f'href="#{name}' in page for name in make_all.ARTEFACTS)
    assert "python paper_figures/make_all.py --only table_4 --im2gps3k FILE" in page


def test_redraw_draws_again_without_computing(out, monkeypatch, capsys):
    for name in QUICK:
        monkeypatch.delattr(make_all.ARTEFACTS[name], "compute")
    before = (out / "index.md").read_text()
    (out / "figure_3.png").unlink()
    (out / "index.md").unlink()
    make_all.main(["--redraw", "--out", str(out)])
    assert (out / "figure_3.png").exists() and (out / "index.md").read_text() == before
    assert "figure_4b" not in capsys.readouterr().out


def test_check_compares_with_the_expected_numbers(out, tmp_path, monkeypatch, capsys):
    def check():
        with pytest.raises(SystemExit) as stop:
            make_all.main(["--redraw", "--check", "--only", *QUICK, "--out", str(out)])
        return stop.value.code, capsys.readouterr().out.splitlines()

    for _ in range(2):
        code, said = check()
        assert code == 0 and said[-1] == "2 artefacts agree with the expected numbers"
    expected = json.loads(make_all.EXPECTED.read_text())
    monkeypatch.setattr(make_all, "EXPECTED", tmp_path / "expected.json")
    expected["figure_3, scale any"]["width at L = 23"] += 0.6
    expected["table_3, scale any"]["a number of the past"] = 1.0
    make_all.EXPECTED.write_text(json.dumps(expected))
    code, said = check()
    assert code == 1 and "width at L = 23 is 185.29" in said[-2] and "a number of the past is None" in said[-1]
    make_all.main(["--redraw", "--accept", "--only", *QUICK, "--out", str(out)])
    assert check()[0] == 0 and "figure_4b, scale any" in json.loads(make_all.EXPECTED.read_text())


@pytest.mark.parametrize("name", ["table_1", "table_2", "figure_5"])
def test_key_numbers_of_the_comparison_are_its_accuracies(name, compared):
    folder, _ = compared
    result, provenance = make_all.read(name, folder)
    numbers = make_all.ARTEFACTS[name].key_numbers(result)
    assert provenance["settings"]["scale"] == "smoke" and provenance["pieces_from"]
    assert len(numbers) == (2 * 2 * len(result["methods_0"]) if name == "table_1" else 15)
    assert all(0 <= value <= 100 and tolerance > 0 for value, tolerance in numbers.values())


def test_list_names_everything_and_says_what_is_computed(out, capsys):
    make_all.main(["--list", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(make_all.ARTEFACTS)
    assert {line.split()[0] for line in lines if line.split()[1] == "computed"} == set(QUICK)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--only", "figure_9"], ["figure_9", *make_all.ARTEFACTS]),
        (["--redraw"], ["not computed", *make_all.ARTEFACTS]),
        (["--redraw", "--only", "figure_4b"], ["not computed", "figure_4b"]),
        (["--out", __file__], ["cannot make the output folder"]),
        (["--only", "table_4", "--im2gps3k", ""], ["table_4 needs --im2gps3k"]),
        (["--scale", "huge"], ["smoke", "cpu", "paper"]),
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


@pytest.fixture(scope="module")
def compared(cache, tmp_path_factory):
    """The output folder of the comparison at its smallest scale, and the Context that it ran in."""
    folder = tmp_path_factory.mktemp("compared")
    make_all.main(
        ["--scale", "smoke", "--only", "table_1", "table_2", "figure_5", "--im2gps3k", "", "--out", str(folder)]
    )
    return folder, context_module.Context("smoke", "", "", folder / "pieces")


def test_the_comparison_shows_every_method_on_both_data_sets_beside_the_paper(compared):
    folder, _ = compared
    text = (folder / "table_1.md").read_text()
    for name in [*baselines.FAMILIES, *table_1.COUNTERPARTS, comparison.HILL, comparison.EACH, evaluation.WEIGHTED]:
        assert text.count(f"\n| {name} |") == 2
    for published in (
        "8.5/24.8/34.3/48.4/64.6",
        "| GeoDecoder | 12.8/33.5/45.9/61.0/76.1 | 10.1/23.9/34.1/49.6/69.0 |",
    ):
        assert published in text
    assert "only shows that it runs" in text and "Simulation: location embeddings of held-out places" in text
    with open(folder / "table_1.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["low"]) <= float(row["per cent"]) <= float(row["high"]) for row in rows)
    assert len(rows) == 2 * 5 * (text.count("\n| LocDiffusion") // 2 + len(baselines.FAMILIES) + 2)
    for name in ("table_1.png", "figure_5.png"):
        assert (folder / name).read_bytes()[:4] == b"\x89PNG"
    text = (folder / "table_2.md").read_text()
    assert (
        "GeoCLIP | grid, 3,888 |" in text
        and "| the paper's GeoCLIP | grid, 21 k | 0.0 (-100.0 %) | 0.9 (-97.5 %)" in text
    )


def test_an_interrupted_comparison_goes_on_from_its_pieces(compared, monkeypatch):
    _, context = compared
    whole = table_1.compute(context)
    lost = next(context.pieces.glob("planet-style-*.npz"))
    content = lost.read_bytes()
    lost.unlink()
    trained = []
    train_baseline = baselines.train_baseline
    monkeypatch.setattr(
        baselines, "train_baseline", lambda make, *rest: trained.append(make) or train_baseline(make, *rest)
    )
    again = table_1.compute(context)
    assert len(trained) == 1 and lost.exists() and content
    np.testing.assert_array_equal(again["hits_0"], whole["hits_0"])
    np.testing.assert_array_equal(again["hits_1"], whole["hits_1"])


def test_the_users_embeddings_take_the_place_of_the_embedded_data(compared, tmp_path):
    folder = datasets.blue_marble(comparison.SCALES["smoke"].blue_marble, False)
    context = context_module.Context("smoke", str(folder), "", tmp_path / "pieces")
    (data,) = comparison.data_sets(context)
    assert data.title == f"Pictures of {folder.name}" and "searches the 400 training pictures" in data.about()
    with pytest.raises(InputError, match="ViT-L-14/openai"):
        table_2.compute(context)
    with pytest.raises(InputError, match="no folder"):
        comparison.data_sets(context_module.Context("smoke", str(tmp_path / "none"), "", tmp_path))


def test_a_piece_is_computed_once_for_each_key_and_whole_or_not_at_all(tmp_path):
    context = context_module.Context("smoke", "", "", tmp_path / "pieces")
    for value in (1, 2):
        assert context.piece("a", {"x": value}, lambda value=value: {"y": np.array(value)})["y"] == value
        assert context.piece("a", {"x": value}, lambda: 1 / 0)["y"] == value
    with pytest.raises(ZeroDivisionError):
        context.piece("b", {}, lambda: {"y": 1 / 0})
    assert not list((tmp_path / "pieces").glob("*b-*"))


def test_anchors_are_chosen_as_by_the_decoder():
    generator = torch.Generator().manual_seed(0)
    coeffs = torch.randn(5, 81, generator=generator)
    anchors = decoder.healpix_anchors(9)
    best, _ = decoder.mode_seeking(coeffs, anchors, 0)
    torch.testing.assert_close(comparison.densest_anchor(coeffs, anchors, "cpu").float(), best)
    samples = torch.rand(4, 3, 2, generator=generator, dtype=torch.float64) * torch.tensor([180, 360]) - torch.tensor(
        [90, 180]
    )
    nearest = anchors[torch_distance(samples[..., None, :], anchors).argmin(dim=-1)]
    torch.testing.assert_close(comparison.centre_at_anchors(samples, anchors), geographic_center(nearest))


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
    context = context_module.Context("cpu", "", os.environ["LOCDIFF_IM2GPS3K"], tmp_path)
    result = table_4.compute(context, turns=20)
    np.testing.assert_allclose(result["cells"][0], table_4.PAPER["MP16"], atol=0.05)
    text, verdict = table_4.draw(result, tmp_path)
    assert (
        verdict.startswith("reproduced")
        and "| MP16 | 100000 | 63.5 | 32.7 | 14.9 | 9.8 | 95.2 | 75.7 | 51.9 | 42.0 |" in text
    )


@pytest.mark.parametrize(
    ("shift", "said"), [(1, "nowhere worse than its parts"), (-1, "worse than the better of its parts at 25 km")]
)
def test_table_1_says_what_the_hits_say(shift, said):
    rng = np.random.default_rng(0)
    base = rng.random((400, 5)) < [0.1, 0.5, 0.5, 0.5, 0.5]
    right = {
        comparison.RETRIEVAL: base,
        comparison.CENTRE: base & False,
        comparison.HILL: base,
        comparison.EACH: base | (rng.random((400, 5)) < 0.3),
    }
    right[evaluation.WEIGHTED] = right[comparison.EACH].copy()
    if shift < 0:
        right[evaluation.WEIGHTED][:100, 1] = False
    text, verdict = table_1._compare(right, np.arange(400) < 100)
    assert said in verdict and "LocDiffusion beats retrieval" in verdict and "25.0 % of the pictures" in text


def test_table_2_says_what_the_losses_say():
    losses = {name: np.full((4, 5), loss) for name, loss in zip(table_2.METHODS, (0.5, 0.1, 0.2), strict=True)}
    assert table_2.verdict(losses).startswith("reproduced") and "GeoCLIP 50.0 to 50.0 %" in table_2.verdict(losses)
    losses[table_2.CENTRE][3, 2] = 0.6
    assert table_2.verdict(losses).startswith("differs")
