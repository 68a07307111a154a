"""The command `predict` given a region or another prior."""

import csv
import json

import pytest
import torch
from support.commands import outcome, succeed

from locdiff import predict
from locdiff.data.regions import box, land
from locdiff.model import priors
from locdiff.model.posterior import LocationPosterior
from locdiff.model.reweighting import NoProbability
from locdiff.pipeline import Pipeline, summarize

AFRICA = "-35,-20,37,52"


def rows_of(run, sources, more, capsys):
    out, _ = succeed(predict.main, [str(run), *map(str, sources), "--samples", "2", *more], capsys)
    return list(csv.DictReader(out.splitlines()))


def test_predictions_lie_in_the_region(run, pictures, tmp_path, capsys):
    path = tmp_path / "africa.geojson"
    path.write_text(
        json.dumps({"type": "Polygon", "coordinates": [[[-20, -35], [52, -35], [52, 37], [-20, 37], [-20, -35]]]})
    )
    by_file = rows_of(run, pictures, ["--within", str(path)], capsys)
    assert by_file == rows_of(run, pictures, ["--within", AFRICA], capsys)
    both = rows_of(run, pictures, ["--within", AFRICA, "--on-land", "--top-k", "3"], capsys)
    everywhere = rows_of(run, pictures, [], capsys)
    assert rows_of(run, pictures, ["--within", "-90,-180,90,180"], capsys) == everywhere != by_file
    for rows, regions in ((by_file, [box(AFRICA)]), (both, [box(AFRICA), land()])):
        assert [row["id"] for row in rows] == pictures
        at = torch.tensor([[float(row["lat"]), float(row["lon"])] for row in rows])
        assert all(region.contains(at).all() for region in regions)
    pipeline = Pipeline.from_pretrained(run)
    given = pipeline.model.posterior(pipeline.embed(pictures)).within(box(AFRICA))
    for row, one in zip(by_file, summarize(given, samples=2), strict=True):
        assert [float(row["lat"]), float(row["lon"])] == pytest.approx(one.places[0], abs=1e-3)
        assert float(row["probability"]) == pytest.approx(one.probabilities[0], rel=0.01)
        assert box(AFRICA).contains(torch.tensor(one.samples)).all()


def test_the_page_states_the_region(run, pictures, tmp_path, capsys):
    html = tmp_path / "page.html"
    rows_of(run, pictures, ["--within", AFRICA, "--on-land", "--html", str(html)], capsys)
    assert "Given: within -35,-20,37,52 and land." in html.read_text()
    rows_of(run, pictures, ["--html", str(html)], capsys)
    assert "Given" not in html.read_text()


def test_predictions_by_another_prior(run, pictures, tmp_path, capsys):
    pipeline, html = Pipeline.from_pretrained(run), tmp_path / "page.html"
    model, table = pipeline.model, tmp_path / "places.csv"
    table.write_text("lat,lon\n" + "10.0,20.0\n12.0,25.0\n" * 50)
    places = torch.tensor([[10.0, 20.0], [12.0, 25.0]], dtype=torch.float64).repeat(50, 1)
    new = {
        "uniform": priors.uniform(model.grid), "land": priors.uniform(model.grid, "land", land()),
        str(table): model.prior_of("places", places),
    }  # fmt: skip
    old = model.posterior(pipeline.embed(pictures))
    for name, prior in new.items():
        rows = rows_of(run, pictures, ["--prior", name, "--html", str(html)], capsys)
        for row, one in zip(rows, summarize(old.reweighted(prior, model.prior), samples=2), strict=True):
            assert [float(row["lat"]), float(row["lon"])] == pytest.approx(one.places[0], abs=1e-3)
            assert float(row["probability"]) == pytest.approx(one.probabilities[0], rel=0.01)
        said = "uniform over land" if name == "land" else name
        assert f"Prior: {said}, instead of the training places." in html.read_text()
    rows = rows_of(run, pictures, ["--prior", "land", "--within", AFRICA], capsys)
    at = torch.tensor([[float(row["lat"]), float(row["lon"])] for row in rows])
    assert land().contains(at).all() and box(AFRICA).contains(at).all()
    rows_of(run, pictures, ["--html", str(html)], capsys)
    assert "Prior: the density of the training places." in html.read_text()


def test_what_is_no_prior_ends_the_run_in_one_line(run, pictures, tmp_path, capsys):
    (tmp_path / "empty.csv").write_text("lat,lon\n")
    (tmp_path / "wrong.csv").write_text("lat,lon\n95,3\n")
    (tmp_path / "blank.csv").write_text("lat,lon\n1,2\n,\n")
    for given, message in (
        ("sea", "--prior sea: give land, uniform or a table (.csv"),
        (str(tmp_path / "absent.csv"), "absent.csv"),
        (str(tmp_path / "empty.csv"), "empty.csv holds no places; write one a line, in the columns lat and lon"),
        (str(tmp_path / "wrong.csv"), "wrong.csv, line 2: (95, 3) is no (lat, lon) in degrees"),
        (str(tmp_path / "blank.csv"), "blank.csv, line 3: the place is missing or not a number"),
    ):
        code, lines = outcome(predict.main, [str(run), *pictures, "--prior", given], capsys)
        assert code == 2 and len(lines) == 1 and message in lines[0], lines


def test_what_is_no_region_ends_the_run_in_one_line(run, pictures, tmp_path, capsys):
    (tmp_path / "empty.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    for given, message in (
        (str(tmp_path / "empty.geojson"), "empty.geojson holds no polygons; give a GeoJSON file with at least one"),
        (str(tmp_path / "absent.geojson"), "absent.geojson: No such file or directory; give a GeoJSON file or"),
        ("10,20,5,30", "10,20,5,30: the first latitude, 10, is north of the second; give the south-west corner"),
        ("-10,20,-95,30", "-10,20,-95,30: the latitude -95 is out of range; give lat,lon,lat,lon in"),
        ("1e,2,3,4", "1e,2,3,4 is not four numbers; give lat,lon,lat,lon in degrees"),
        ("", "argument --within: it is empty"),
    ):
        code, lines = outcome(predict.main, [str(run), *pictures, "--within", given], capsys)
        assert code == 2 and len(lines) == 1 and message in lines[0], lines


def test_a_picture_without_probability_is_one_failure(run, pictures, five_views, tmp_path, monkeypatch, capsys):
    """The second of five pictures, and one that cannot be read; the others keep their predictions."""
    wanted = rows_of(run, [five_views], ["--within", AFRICA, "--batch", "3"], capsys)
    real, calls = LocationPosterior.weighted, []

    def without(posterior, weights):
        calls.append(len(posterior))
        if len(calls) == 1:
            raise NoProbability(weights.region, [1])
        return real(posterior, weights)

    monkeypatch.setattr(LocationPosterior, "weighted", without)
    out = tmp_path / "out.csv"
    argv = [str(run), str(five_views), "--within", AFRICA, "--batch", "3", "--samples", "2", "--out", str(out)]
    code, lines = outcome(predict.main, [*argv, "--map", str(tmp_path / "map.png")], capsys)
    found = list(csv.DictReader(out.read_text().splitlines()))
    name = wanted[1]["id"]
    assert code == 2 and calls == [3, 2, 2] and (tmp_path / "map.png").exists()
    assert lines[-2].startswith("cannot locate the ") and name in lines[-2]
    assert lines[-2].endswith("its density has no probability within -35,-20,37,52")
    assert lines[-1].startswith("error: 1 of 5 ") and lines[-1].endswith(f"could not be located; the first: {name}")
    kept = [row for row in wanted if row["id"] != name]
    assert [row["id"] for row in found] == [row["id"] for row in kept]
    for row, old in zip(found, kept, strict=True):
        assert float(row["lat"]) == pytest.approx(float(old["lat"]), abs=1e-3)
    calls.clear()
    (tmp_path / "text.jpg").write_text("no picture")
    code, lines = outcome(predict.main, [str(run), *pictures, str(tmp_path / "text.jpg"), "--within", AFRICA], capsys)
    assert code == 2 and "failed 2:" in "".join(lines)
    assert lines[-1].startswith("error: 2 of 3 pictures could not be read or located; the first: ")


def test_when_no_picture_is_left_no_file_is_replaced(run, pictures, tmp_path, monkeypatch, capsys):
    def without(posterior, weights):
        raise NoProbability(weights.region, list(range(len(posterior))))

    monkeypatch.setattr(LocationPosterior, "weighted", without)
    out = tmp_path / "out.csv"
    out.write_text("old")
    code, lines = outcome(predict.main, [str(run), *pictures, "--within", AFRICA, "--out", str(out)], capsys)
    assert code == 2 and "2 of 2 pictures could not be located" in lines[-1] and out.read_text() == "old"
