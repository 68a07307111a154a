"""The command `predict`: pictures and embeddings in, tables, pages and maps out."""

import csv
import json
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


def test_predict_prints_a_line_a_picture_and_draws(run, pictures, tmp_path, capsys):
    predict.main([str(run), *pictures, "--map", str(tmp_path / "map.png"), "--samples", "3"])
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
    predict.main([str(run), pictures[0], "--top-k", "3"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    shares = [float(row["probability"]) for row in rows if row["prediction"].startswith("place")]
    assert 1 <= len(shares) <= 3 and shares == sorted(shares, reverse=True)
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width > 1000


def test_predictions_that_cannot_be_drawn_or_drawn_from_are_refused(run, pictures, tmp_path, capsys):
    for extra, message in (
        (["--map", str(tmp_path / "nowhere" / "map.png")], "nowhere is no folder"),
        (["--seed", "-1"], "--samples and --seed at least 0"),
        (["--top-k", "0"], "--top-k and --batch must be at least 1"),
        (["--out", str(tmp_path / "p.txt")], "must be one of .csv, .jsonl, .geojson"),
        (["--out", str(tmp_path / "nowhere" / "p.csv")], "nowhere/p.csv: "),
        (["--text", "a street in Lisbon"], "words need a model trained on CLIP embeddings"),
    ):
        code, lines = outcome(predict.main, [str(run), *pictures, *extra], capsys)
        assert code == 2 and len(lines) == 1 and message in lines[0]


def test_no_pictures_have_no_predictions_and_no_map(run, tmp_path, capsys):
    empty = write_folder(tmp_path / "none", np.empty((0, 768), np.float16), [], '{"encoder": "thumbnail-16"}')
    predict.main([str(run), str(empty), "--map", str(tmp_path / "map.png")])
    assert len(capsys.readouterr().out.splitlines()) == 1 and not (tmp_path / "map.png").exists()


def test_predictions_are_the_same_in_every_format_and_from_python(run, pictures, tmp_path):
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(pictures[1], "deep/amazon.jpg")
    sources = [*pictures, str(tmp_path / "more.zip")]
    files = {ending: tmp_path / f"out{ending}" for ending in FORMATS}
    for path in files.values():
        predict.main([str(run), *sources, "--top-k", "3", "--samples", "4", "--batch", "2", "--out", str(path)])
    table = list(csv.DictReader(files[".csv"].read_text().splitlines()))
    records = [json.loads(line) for line in files[".jsonl"].read_text().splitlines()]
    features = json.loads(files[".geojson"].read_text())["features"]
    names = [*pictures, str(tmp_path / "more.zip/deep/amazon.jpg")]
    assert [record["id"] for record in records] == names and len(table) == len(features)
    direct = Pipeline.load(run).predict(pictures, samples=4, top_k=3)
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
        assert len(lines) == 6  # all of the first picture, nothing of the second


def test_predict_takes_an_embeddings_folder(run, five_views, capsys):
    predict.main([str(run), str(five_views)])
    assert len(capsys.readouterr().out.splitlines()) == 1 + 5 * 7


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
        Pipeline.load(run).predict([pictures[0], str(tmp_path / "cut.jpg")])
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
