"""The command `predict`: pictures and embeddings in, tables, pages and maps out."""

import csv
import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.calls import count_calls
from support.commands import outcome
from support.embeddings import write_folder

from locdiff import memory, predict
from locdiff.data.prediction_files import FORMATS
from locdiff.errors import InputError
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.model.reverse_process import ReverseProcess
from locdiff.pipeline import Pipeline
from locdiff.viz import page


def test_predict_prints_a_line_a_picture(run, pictures, capsys):
    predict.main([str(run), *pictures, "--top-k", "3", "--samples", "0"])
    text = capsys.readouterr().out
    more = [f"{column}_{k}" for k in (2, 3) for column in ("lat", "lon", "probability")]
    assert text.splitlines()[0].split(",") == ["id", "lat", "lon", "probability", "radius_50_km", "radius_90_km", *more]
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["id"] for row in rows] == pictures
    for row, prediction in zip(rows, Pipeline.from_pretrained(run).predict(pictures, samples=0, top_k=3), strict=True):
        for k, (place, probability) in enumerate(zip(prediction.places, prediction.probabilities, strict=True), 1):
            end = f"_{k}" if k > 1 else ""
            assert [float(row[f"lat{end}"]), float(row[f"lon{end}"])] == pytest.approx(place, abs=1e-3)
            assert float(row[f"probability{end}"]) == pytest.approx(probability, rel=0.01)
        assert float(row["radius_90_km"]) == pytest.approx(prediction.radius_90_km, abs=2)
        assert None not in row.values() and len(row) == 12  # cells of modes that there are not are empty


def test_predict_prints_a_line_a_prediction_and_draws(run, pictures, tmp_path, capsys):
    predict.main([str(run), *pictures, "--map", str(tmp_path / "map.png"), "--samples", "3", "--long"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    expected = ["place 1", *(f"within {k} km" for k in (1, 25, 200, 750, 2500)), "centre of 3"]
    assert [(row["id"], row["prediction"]) for row in rows] == [(name, kind) for name in pictures for kind in expected]
    for row in rows:
        assert abs(float(row["lat"])) <= 90 and -180 <= float(row["lon"]) < 180
        if row["prediction"] == "place 1":
            assert 0 < float(row["radius_50_km"]) <= float(row["radius_90_km"]) < 20_016
        if "within" in row["prediction"]:
            assert 0 < float(row["probability"]) < 1.0001 or row["prediction"] == "within 1 km"
    capsys.readouterr()
    predict.main([str(run), pictures[0], "--top-k", "3", "--long"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    shares = [float(row["probability"]) for row in rows if row["prediction"].startswith("place")]
    assert 1 <= len(shares) <= 3 and shares == sorted(shares, reverse=True)
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width > 1000


def test_predictions_that_cannot_be_drawn_or_drawn_from_are_refused(run, pictures, tmp_path, capsys):
    folder = tmp_path / "folder.html"
    folder.mkdir()
    for extra, message in (
        (["--map", str(tmp_path / "nowhere" / "map.png")], "nowhere is no folder"),
        (["--seed", "-1"], "argument --seed: must be at least 0, got -1"),
        (["--top-k", "0"], "argument --top-k: must be at least 1, got 0"),
        (["--workers", "-1"], "argument --workers: must be at least 0, got -1"),
        (["--html", str(tmp_path / "page.txt")], "page.txt: the file's ending must be one of .html, .htm"),
        (["--map", str(tmp_path / "map.pdf")], "map.pdf: the file's ending must be one of .png"),
        (["--exiftool", str(tmp_path / "gps.jpg")], "gps.jpg: the file's ending must be one of .csv"),
        (["--map", pictures[0]], f"--map would overwrite {pictures[0]}"),
        (["--out", str(tmp_path / "a.csv"), "--exiftool", str(tmp_path / "a.csv")], "--exiftool would overwrite"),
        (["--html", ""], "argument --html: it is empty"),
        (["--html", str(folder)], "folder.html: it is a folder"),
        (["--out", str(tmp_path / "p.jsonl"), "--long"], "--long is a form of csv"),
        (["--min-probability", "1.5"], "--min-probability is a probability"),
        (["--exiftool", str(tmp_path / "nowhere" / "gps.csv")], "nowhere/gps.csv: "),
        (["--out", str(tmp_path / "p.txt")], "must be one of .csv, .jsonl, .geojson"),
        (["--out", str(tmp_path / "nowhere" / "p.csv")], "nowhere/p.csv: "),
        (["--text", "a street in Lisbon"], "words need a model trained on CLIP embeddings"),
    ):
        code, lines = outcome(predict.main, [str(run), *pictures, *extra], capsys)
        assert code == 2 and len(lines) == 1 and message in lines[0]


def test_no_pictures_have_no_predictions_and_no_map(run, tmp_path, capsys):
    empty = write_folder(tmp_path / "none", np.empty((0, 768), np.float16), [], '{"encoder": "thumbnail-16"}')
    code, lines = outcome(predict.main, [str(run), str(empty), "--map", str(tmp_path / "map.png")], capsys)
    assert code == 2 and "holds no embeddings" in lines[0] and not (tmp_path / "map.png").exists()


def test_predictions_are_the_same_in_every_format_and_from_python(run, pictures, tmp_path):
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(pictures[1], "deep/amazon.jpg")
    sources = [*pictures, str(tmp_path / "more.zip")]
    files = {ending: tmp_path / f"out{ending}" for ending in FORMATS}
    for path in files.values():
        argv = [str(run), *sources, "--top-k", "3", "--samples", "4", "--batch", "2", "--out", str(path)]
        predict.main(argv + ["--long"] * (path.suffix == ".csv"))
    table = list(csv.DictReader(files[".csv"].read_text().splitlines()))
    records = [json.loads(line) for line in files[".jsonl"].read_text().splitlines()]
    features = json.loads(files[".geojson"].read_text())["features"]
    regions = [feature for feature in features if feature["geometry"]["type"] == "MultiPolygon"]
    features = [feature for feature in features if feature not in regions]
    names = [*pictures, str(tmp_path / "more.zip/deep/amazon.jpg")]
    assert [record["id"] for record in records] == names and len(table) == len(features)
    direct = Pipeline.from_pretrained(run).predict(pictures, samples=4, top_k=3)
    kinds = [(region["properties"]["id"], region["properties"]["prediction"]) for region in regions]
    assert kinds == [(name, f"region of {share} %") for name in names for share in (50, 90)]
    for region, record in zip(regions[::2], records, strict=True):
        assert region["properties"]["area_km2"] == pytest.approx(record["area_50_km2"], rel=1e-4)
        assert region["geometry"]["coordinates"]
    for record, prediction in zip(records, direct, strict=False):
        np.testing.assert_allclose(record["places"], prediction.places, atol=1e-3)
        np.testing.assert_allclose(record["samples"], prediction.samples, atol=1e-9)
        assert record["radius_90_km"] == pytest.approx(prediction.radius_90_km, rel=1e-4)
    np.testing.assert_allclose(records[2]["places"], records[1]["places"], atol=1e-3)
    assert records[2]["samples"] != records[1]["samples"]  # other noise at another position
    for row, feature in zip(table, features, strict=True):
        lon, lat = feature["geometry"]["coordinates"]
        assert feature["properties"]["id"] == row["id"] and feature["properties"]["prediction"] == row["prediction"]
        assert abs(lat - float(row["lat"])) < 1e-4 and abs(lon - float(row["lon"])) < 1e-4
    predict.main([str(run), pictures[0], "--samples", "0", "--out", str(files[".jsonl"])])
    record = json.loads(files[".jsonl"].read_text())
    assert record["samples"] == [] and record["center"] is None


def test_exiftool_gets_the_files_that_are_probable_enough(run, pictures, tmp_path):
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(pictures[1], "amazon.jpg")
    best = Pipeline.from_pretrained(run).predict(pictures, samples=0)
    low, high = sorted(one.probabilities[0] for one in best)
    for minimum in (0, (low + high) / 2, high + 1e-4):  # not at one itself, whose rounding depends on the batch
        argv = [str(run), *pictures, str(tmp_path / "more.zip"), "--samples", "0", "--out", str(tmp_path / "all.csv")]
        predict.main([*argv, "--exiftool", str(tmp_path / "gps.csv"), "--min-probability", str(minimum)])
        rows = list(csv.DictReader((tmp_path / "gps.csv").read_text().splitlines()))
        expected = {p: one for p, one in zip(pictures, best, strict=True) if one.probabilities[0] > minimum + 1e-6}
        assert [row["SourceFile"] for row in rows] == list(expected)
        for row, one in zip(rows, expected.values(), strict=True):
            (lat, lon) = one.places[0]
            assert float(row["GPSLatitude"]) == pytest.approx(abs(lat), abs=1e-3) and float(row["GPSLongitude"]) >= 0
            assert row["GPSLatitudeRef"] == ("S" if lat < 0 else "N")
            assert row["GPSLongitudeRef"] == ("W" if lon < 0 else "E")
        assert len((tmp_path / "all.csv").read_text().splitlines()) == 4
    assert not expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_a_full_disk_is_named(run, pictures, tmp_path, capsys):
    (tmp_path / "out.csv").symlink_to("/dev/full")
    code, lines = outcome(predict.main, [str(run), pictures[0], "--out", str(tmp_path / "out.csv")], capsys)
    assert code == 2 and len(lines) == 1 and "No space left" in lines[0] and "out.csv" in lines[0]


def test_an_interrupted_prediction_leaves_whole_files(run, pictures, tmp_path, monkeypatch):
    real, calls = LocDiffusion.posterior, []

    def stopped(self, *arguments, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return real(self, *arguments, **options)

    monkeypatch.setattr(LocDiffusion, "posterior", stopped)
    for ending in (".geojson", ".csv"):
        calls.clear()
        path = tmp_path / f"out{ending}"
        with pytest.raises(KeyboardInterrupt):
            predict.main([str(run), *pictures, "--batch", "1", "--samples", "0", "--out", str(path)])
        text = path.read_text()
        lines = json.loads(text)["features"] if ending == ".geojson" else list(csv.DictReader(text.splitlines()))
        assert len(lines) == (8 if ending == ".geojson" else 1)  # all of the first picture, nothing of the second


def test_the_slash_after_a_folder_does_not_change_the_ids(run, pictures, capsys):
    folder = str(Path(pictures[0]).parent)
    for source in (folder, folder + "/"):
        predict.main([str(run), source, "--samples", "0"])
    first, second = capsys.readouterr().out.split("id,lat,lon")[1:]
    assert first == second and f"{folder}/" in first and "//" not in first


def test_predict_takes_an_embeddings_folder(run, five_views, capsys):
    predict.main([str(run), str(five_views)])
    assert len(capsys.readouterr().out.splitlines()) == 1 + 5


def test_bad_pictures_are_named(run, pictures, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "cut.jpg").write_bytes(Path(pictures[1]).read_bytes()[:400])
    out, drawn = tmp_path / "out.csv", tmp_path / "map.png"
    for name in ("text.jpg", "cut.jpg"):
        argv = [str(run), str(tmp_path / name), pictures[0], "--samples", "1", "--out", str(out), "--map", str(drawn)]
        code, lines = outcome(predict.main, argv, capsys)
        assert code == 2 and any(f"cannot read the picture {tmp_path / name}: " in line for line in lines)
        assert lines[-1] == f"error: 1 of 2 pictures could not be read; the first: {tmp_path / name}"
        assert {row["id"] for row in csv.DictReader(out.read_text().splitlines())} == {pictures[0]} and drawn.exists()
        drawn.unlink()
    with pytest.raises(InputError, match=r"cannot read the picture .*cut.jpg: "):
        Pipeline.from_pretrained(run).predict([pictures[0], str(tmp_path / "cut.jpg")])
    code, lines = outcome(predict.main, [str(run), str(tmp_path / "cut.jpg"), "--map", str(drawn)], capsys)
    assert code == 2 and not drawn.exists()
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "holds no pictures"), ("absent.jpg", "does not exist")):
        code, lines = outcome(predict.main, [str(run), str(tmp_path / name)], capsys)
        assert code == 2 and len(lines) == 1 and message in lines[0]


def test_more_pictures_than_a_page_holds_are_refused(run, five_views, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LIMIT", 4)
    with pytest.raises(InputError, match="--html shows at most 4 pictures, got 5"):
        predict.main([str(run), str(five_views), "--html", str(tmp_path / "out.html")])
    monkeypatch.undo()
    predict.main([str(run), str(five_views), "--html", str(tmp_path / "out.html"), "--out", str(tmp_path / "out.csv")])
    assert (tmp_path / "out.html").read_text().count("<article") == 5


def test_a_page_and_a_map_evaluate_and_sample_each_density_once(run, pictures, tmp_path, monkeypatch):
    posteriors = count_calls(monkeypatch, LocDiffusion, "posterior")
    passes, chains = (
        count_calls(monkeypatch, *one) for one in ((LocDiffusion, "one_pass"), (ReverseProcess, "__call__"))
    )
    out, html, drawn = (tmp_path / name for name in ("out.csv", "out.html", "out.png"))
    predict.main([str(run), *pictures, "--out", str(out), "--html", str(html), "--map", str(drawn)])
    assert [len(embeddings) for _, embeddings in posteriors] == [2] and len(passes) == len(chains) == 1
    assert out.exists() and html.exists() and drawn.exists()


def test_little_memory_gives_the_same_predictions(run, five_views, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_megabytes", memory.DEFAULT_MB)  # of this process, which the command changes
    posteriors, records = count_calls(monkeypatch, LocDiffusion, "posterior"), []
    for megabytes in ("512", "1"):
        out = tmp_path / f"{megabytes}.jsonl"
        predict.main([str(run), str(five_views), "--samples", "3", "--memory", megabytes, "--out", str(out)])
        records.append([json.loads(line) for line in out.read_text().splitlines()])
    assert [len(embeddings) for _, embeddings in posteriors] == [5, 4, 1]
    for one, other in zip(*records, strict=True):
        assert one["id"] == other["id"]
        for name in ("places", "samples", "probabilities", "radius_50_km", "area_90_km2"):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-3)


def test_a_batch_of_bad_pictures_only_does_not_end_the_run(run, pictures, tmp_path, capsys):
    bad, out = [tmp_path / f"bad{i}.jpg" for i in range(3)], str(tmp_path / "places.csv")
    for path in bad:
        path.write_text("no picture")
    code, lines = outcome(predict.main, [str(run), *map(str, bad), *pictures, "--batch", "2", "--out", out], capsys)
    assert code == 2 and "3 of 5 pictures could not be read" in lines[-1]
    assert all(any(f"cannot read the picture {path}" in line for line in lines) for path in bad)
    assert {line.split(",")[0] for line in Path(out).read_text().splitlines()[1:]} == set(pictures)


def test_an_old_file_is_replaced_at_the_end_or_not_at_all(run, five_views, pictures, tmp_path, capsys):
    data, out, bad = tmp_path / "data", tmp_path / "out.csv", tmp_path / "bad.jpg"
    shutil.copytree(five_views, data)
    embeddings = np.load(data / "embeddings.npy")
    embeddings[3] = np.nan
    np.save(data / "embeddings.npy", embeddings)
    bad.write_text("no picture")
    out.write_text("old")
    code, lines = outcome(predict.main, [str(run), str(data), "--batch", "2", "--out", str(out)], capsys)
    assert code == 2 and "row 3" in lines[-1] and "out.csv stays as it was" in lines[-2] and out.read_text() == "old"
    assert len((tmp_path / "out.part.csv").read_text().splitlines()) == 3
    code, lines = outcome(predict.main, [str(run), str(bad), "--out", str(out)], capsys)
    assert code == 2 and "1 of 1 pictures could not be read" in lines[-1] and out.read_text() == "old"
    code, lines = outcome(predict.main, [str(run), str(bad), pictures[0], "--out", str(out)], capsys)
    assert code == 2 and len(out.read_text().splitlines()) == 2 and not (tmp_path / "out.part.csv").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_a_full_standard_output_is_named(run, pictures, monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, lines = outcome(predict.main, [str(run), pictures[0], "--samples", "0"], capsys)
        monkeypatch.undo()
    assert code == 2 and len(lines) == 1 and "cannot write the standard output: " in lines[0]
