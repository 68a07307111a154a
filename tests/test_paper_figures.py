"""The paper's figures and tables: what make_all.py writes, and the numbers behind it."""

import csv
import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from locdiff import baselines, cs_unet, datasets, decoder, metrics, train
from locdiff import evaluate as evaluation
from locdiff.cli import InputError
from locdiff.coordinates import geographic_center, to_unit_vector
from locdiff.coordinates import great_circle_km as torch_distance
from reference.coordinates import EARTH_RADIUS_KM, great_circle_km
from reference.shdd import delta_kernel, encode, evaluate

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "paper_figures"))  # where the script itself looks
make_all = importlib.import_module("make_all")
figure_3, figure_4b, table_1, table_2, table_3, table_4 = (
    make_all.ARTEFACTS[name] for name in ("figure_3", "figure_4b", "table_1", "table_2", "table_3", "table_4")
)
figure_1, figure_2, figure_4a, figure_4_low_pass = (
    make_all.ARTEFACTS[name] for name in ("figure_1", "figure_2", "figure_4a", "figure_4_low_pass")
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


SMALL = ["figure_1", "figure_2", "figure_4a", "figure_4_low_pass"]


@pytest.fixture(scope="module")
def small(cache, geoclip, tmp_path_factory):
    """The output folder of four artefacts at their smallest scale."""
    folder = tmp_path_factory.mktemp("small")
    make_all.main(["--scale", "smoke", "--only", *SMALL, "--out", str(folder)])
    return folder


def numbers(folder, name):
    with np.load(folder / f"{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", SMALL)
def test_an_artefact_draws_its_numbers(small, name):
    assert (small / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    text = (small / f"{name}.md").read_text()
    assert f"({name}.png)" in text and ("Verdict: at scale smoke" in text or name == "figure_2")
    with open(small / f"{name}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["low"]) <= float(row["per cent"]) <= float(row["high"]) for row in rows if "per cent" in row)
    assert len(rows) == {"figure_1": 4 * 8, "figure_2": 2 * 6, "figure_4a": 2 * 2 * 5, "figure_4_low_pass": 4 * 4}[name]


def test_figure_1_nonlinearity_is_what_no_increasing_function_explains():
    rng = np.random.default_rng(0)
    km = rng.uniform(0, 2000, 500)
    assert figure_1.nonlinearity(km, 3 * km) == pytest.approx(0, abs=1e-12)
    assert figure_1.nonlinearity(km, np.minimum(km, 700) ** 2) == pytest.approx(0, abs=1e-12)
    assert figure_1.nonlinearity(km, -km) == pytest.approx(1)
    assert 0.9 < figure_1.nonlinearity(km, rng.normal(size=500)) <= 1
    signal, noise = km / km.std(), rng.normal(size=500)
    assert figure_1.nonlinearity(km, signal + noise) == pytest.approx(0.5, abs=0.1)


def test_figure_1_counts_false_minima():
    x, y = np.meshgrid(np.arange(21), np.arange(21))
    bowl = np.hypot(x - 10.0, y - 10.0)
    dented = bowl - 5 * ((x == 4) & (y == 7)) - 9 * (x == 0)
    np.testing.assert_array_equal(np.argwhere(figure_1.false_minima(bowl)), [[10, 10]])
    np.testing.assert_array_equal(np.argwhere(figure_1.false_minima(dented)), [[7, 4], [10, 10]])


def test_figure_1_sphere2vec_holds_the_unit_vector_and_its_length():
    rng = np.random.default_rng(0)
    lat_lon = torch.from_numpy(np.stack([rng.uniform(-90, 90, 50), rng.uniform(-180, 180, 50)], axis=-1))
    encoding, scales = figure_1.sphere2vec(lat_lon), 64
    terms = encoding.view(50, 5, scales).double()
    x, y, z = to_unit_vector(lat_lon).unbind(-1)
    torch.testing.assert_close(terms[..., -1], torch.stack([z, x, x, y, y], dim=-1), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        terms.square().sum(dim=1), (1 + torch.deg2rad(lat_lon[:, :1]).cos() ** 2).expand(-1, scales), atol=1e-5, rtol=0
    )


def test_figure_1_map_is_the_closed_form_and_noise_is_as_long_as_said():
    scale = figure_1.Scale(pixels=0, nside=8, places=40)
    square = torch.tensor([figure_1.PARIS, (50.0, 10.0), (20.0, 30.0), (-48.86, -177.65)], dtype=torch.float64)
    own = figure_1.measure(lambda lat_lon: torch.from_numpy(encode(lat_lon.numpy(), 11)).float(), square, scale)
    angle = great_circle_km(np.array(figure_1.PARIS), square.numpy()) / EARTH_RADIUS_KM
    expected = np.sqrt(2 * (delta_kernel(0.0, 11) - delta_kernel(angle, 11)).clip(min=0))
    np.testing.assert_allclose(own["map"], expected / expected.max(), atol=1e-5)
    assert not own["drift"][:2].any() and own["drift"][-1].any()
    np.testing.assert_allclose(own["off"][:2], figure_1.NOISES[:2], rtol=0.05)


def test_figure_1_says_which_encoder_is_smoother(small):
    result = numbers(small, "figure_1")
    assert figure_1.verdict(result).startswith("reproduced")
    result["nonlinearity"] = result["nonlinearity"][::-1]
    assert figure_1.verdict(result).startswith("differs")


def test_figure_2_counts_the_parameters_of_the_networks(small):
    result = numbers(small, "figure_2")
    for name in figure_2.PRESETS:
        c = train.resolve(name, l_max=23).model
        network = cs_unet.CSUNet(c.dimensions, c.embed_dim, c.width, c.depth, c.time_dim, c.dropout)
        total = sum(p.numel() for p in network.parameters())
        assert result[f"{name}_blocks"][:, 2].sum() + result[f"{name}_parameters"][1] == total
        assert result[f"{name}_parameters"][0] == total and result[f"{name}_checks"].all()
        weights = result[f"{name}_parts"].prod(axis=-1).sum() + result[f"{name}_parts"][..., 1].sum()  # and biases
        assert weights == result[f"{name}_blocks"][:, 2].sum()
    assert "2,739,408 (paper) and 5,349,800" in figure_2.verdict(result)
    result["quickstart_checks"][3] = False
    assert figure_2.verdict(result).startswith(f"differs: not so: {figure_2.CHECKS[3]} (quickstart)")


def other_image(self, x, t, image):
    time, skips = cs_unet.sinusoidal_embedding(t, self.d_time).to(x.dtype), []
    for block in self.down:
        skips.append(x)
        x = block(x, time, image)
    for block in self.up:
        x = block(x, time, 2 * image) + skips.pop()
    return self.head(x)


def no_one(self, x, time, image):
    scale, shift = self.from_time(time).chunk(2, dim=-1)
    return torch.sin(self.out(scale * self.from_x(x) + shift + self.from_image(image)))


def no_skips(self, x, t, image):
    time = cs_unet.sinusoidal_embedding(t, self.d_time).to(x.dtype)
    for block in [*self.down, *self.up]:
        x = block(x, time, image)
    return self.head(x)


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, []), ({"width": 16}, [1]), ({"l_max": 15}, [5]), ({"time_dim": 100}, [5]), ({"depth": 4}, [6]),
        ("block", [0]), (no_skips, [3]), (other_image, [4]), ("layer", [7]), ("not mirrored", [2, 3]),
    ],
)  # fmt: skip
def test_figure_2_sees_what_is_wired_otherwise(change, broken, monkeypatch):
    c = train.resolve("paper", l_max=23).model
    if isinstance(change, dict):
        c = dataclasses.replace(c, **change)
    network = cs_unet.CSUNet(c.dimensions, c.embed_dim, c.width, c.depth, c.time_dim, c.dropout)
    if callable(change):
        monkeypatch.setattr(cs_unet.CSUNet, "forward", change)
    elif change == "layer":
        network.more = torch.nn.Linear(2, 2)
    elif change == {"width": 16}:
        c = dataclasses.replace(c, width=32)
    elif change == "block":
        monkeypatch.setattr(cs_unet.CSiren, "forward", no_one)
    elif change == "not mirrored":
        monkeypatch.setattr(cs_unet.CSUNet, "forward", no_skips)
        network.up[0] = cs_unet.CSiren(32, 100, 200, 768, 0.0)
        network.up[1] = cs_unet.CSiren(100, 220, 200, 768, 0.0)
    found = figure_2.checks(network, c)
    assert [i for i, ok in enumerate(found) if not ok] == broken


@pytest.mark.parametrize("l_max", [15, 23, 47])
def test_figure_4a_bound_is_the_curvature_of_the_peak(l_max):
    """F falls by curvature / 2 times the angle squared; noise of variance s^2 moves the top by s / sqrt(curvature)."""
    angle = 1e-3
    curvature = 2 * (delta_kernel(0.0, l_max) - delta_kernel(angle, l_max)) / angle**2
    expected = EARTH_RADIUS_KM * 0.1 * np.sqrt(np.pi / 2 / curvature)  # the mean of a Rayleigh distribution
    assert figure_4a.cramer_rao_km(l_max) == pytest.approx(expected, rel=1e-3)


def test_figure_4a_noisy_encodings_are_decoded_to_the_bound():
    assert figure_4a._limit(15, 400)["errors"].mean() == pytest.approx(figure_4a.cramer_rao_km(15), rel=0.1)


def test_figure_4a_trains_each_degree_alike(small):
    result = numbers(small, "figure_4a")
    assert result["hits"].shape == (2, 2, 40, len(metrics.THRESHOLDS_KM)) and list(result["degrees"]) == [5, 7]
    assert "20 steps of 64" in str(result["about"]) and (np.diff(result["hits"].mean(axis=2), axis=-1) >= 0).all()


@pytest.mark.parametrize(("factor", "said"), [(1, "reproduced: a larger L helps, most"), (-1, "differs")])
def test_figure_4a_says_what_the_hits_say(factor, said):
    rng = np.random.default_rng(0)
    gains = factor * np.array([0.0, 0.2, 0.2, 0.02, 0.01])
    right = [rng.random((2, 500, 5)) < 0.5 + gains * share for share in (0, 1)]
    result = {"degrees": np.array([15, 47]), "hits": np.array(right), "errors": np.array([[20.0, 24.0], [2.0, 3.0]])}
    verdict = figure_4a.verdict(result)
    assert verdict.startswith(said) and "from 22.0 to 2.5 km" in verdict


def test_low_pass_keeps_the_largest():
    largest = torch.tensor([0.3, 2.0, 0.1, 1.0])
    assert figure_4_low_pass.low_pass(largest, 2).tolist() == [0, 1, 0, 1]


def test_low_pass_with_all_dimensions_loses_nothing(small):
    result = numbers(small, "figure_4_low_pass")
    errors = dict(zip(figure_4_low_pass.ROWS, result["errors"], strict=True))
    assert result["kept"][0] == 144 and result["energy"][0] == pytest.approx(1)
    assert errors[figure_4_low_pass.FILTER][0].max() < 0.01  # km
    assert errors[figure_4_low_pass.FILTER][-1].min() > 1
    assert errors[figure_4_low_pass.SMALLER].max() < 0.1  # of an encoding without noise, at any l_max
    noisy = errors[figure_4_low_pass.SMALLER + figure_4_low_pass.NOISY].mean(axis=1)
    bound = [figure_4a.cramer_rao_km(round(n**0.5) - 1) for n in result["kept"]]
    np.testing.assert_allclose(noisy, bound, rtol=0.3)
    # the addition theorem: the mean square over the sphere is the same in every dimension
    np.testing.assert_allclose(result["energy"], result["kept"] / 144, atol=0.02)


def test_low_pass_says_which_is_better(small):
    result = numbers(small, "figure_4_low_pass")
    assert figure_4_low_pass.verdict(result).startswith("differs")
    result["errors"] = result["errors"][[1, 0, 3, 2]]
    assert figure_4_low_pass.verdict(result).startswith("reproduced")
