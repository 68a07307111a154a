"""What a user types: train, evaluate, predict, and what they say to bad input."""

import csv
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from locdiff import embed, evaluate, options, predict, train
from locdiff.data import blue_marble
from locdiff.data.embeddings import write_embeddings
from locdiff.evaluation import summaries


def outcome(main, argv, capsys):
    """Exit code and the last line of standard error of a command in this process."""
    with pytest.raises(SystemExit) as stop:
        options.run(lambda: main(argv))
    return stop.value.code, capsys.readouterr().err.strip().splitlines()


@pytest.fixture
def pictures(tmp_path, cache):
    """Two pictures of the Earth from above, made from the map, one with transparency."""
    view = blue_marble.thumbnails(
        blue_marble.blue_marble_image(), blue_marble.torch.tensor([[27.0, 30.5], [-3.0, -60.0]]).double()
    )
    paths = []
    for i, (name, mode) in enumerate([("nile.png", "RGBA"), ("amazon.jpg", "RGB")]):
        pixels = (view[i].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels).resize((96, 64), Image.Resampling.BICUBIC).convert(mode).save(tmp_path / name)
        paths.append(str(tmp_path / name))
    return paths


def test_training_leaves_a_run_folder_with_scores_and_pictures(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json", "training.json", "log.csv", "model.safetensors", "state.safetensors",
        "metrics.json", "metrics.md", "predictions.png",
    }  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text())
    rows = list(metrics["rows"])
    for part in ("one sample (", "chance the one-pass", "centre of 4", "medoid", "mean density", "one-pass density"):
        assert any(part in row for row in rows), part
    assert sum(row.startswith("Retrieval") for row in rows) == 3 and any(row.startswith("Chance") for row in rows)
    for row in metrics["rows"].values():
        assert set(row["accuracy"]) == {"1", "25", "200", "750", "2500"}
    assert metrics["held_out"] == 40 and metrics["versions"]["torch"]
    for row in rows:
        assert row in (run / "metrics.md").read_text()
    with Image.open(run / "predictions.png") as picture:
        assert picture.width > 1000 and np.asarray(picture.convert("L")).std() > 20


def test_evaluate_repeats_the_table_of_training(run, monkeypatch, capsys):
    monkeypatch.setattr(summaries, "PLAIN_GALLERY", 300)
    monkeypatch.setattr(summaries, "PLAIN_GRID_NSIDE", 8)
    before = json.loads((run / "metrics.json").read_text())
    table = (run / "metrics.md").read_text()
    evaluate.main([str(run)])
    assert json.loads((run / "metrics.json").read_text())["rows"] == before["rows"]
    assert (run / "metrics.md").read_text() == table and table in capsys.readouterr().out


def test_evaluate_scores_another_folder_beside_the_run(run, cache):
    other = (
        blue_marble.blue_marble(blue_marble.BlueMarble(train_views=1, test_views=5, data_seed=7), progress=False)
        / "test"
    )
    evaluate.main([str(run), "--data", str(other), "--samples", "2"])
    record = json.loads((run / "metrics-test.json").read_text())
    assert record["held_out"] == 5 and record["data"] == str(other)
    for path in run.glob("*-test.*"):
        path.unlink()


def test_evaluate_adds_rows_of_the_model_with_retrieval_from_the_training_pictures(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(summaries, "PLAIN_GALLERY", 300)
    monkeypatch.setattr(summaries, "PLAIN_GRID_NSIDE", 8)
    monkeypatch.setattr(summaries.maps, "draw_predictions", lambda *_: None)  # which takes seconds
    before = json.loads((run / "metrics.json").read_text())
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    evaluate.main([str(copy), "--hybrid"])
    after = json.loads((copy / "metrics.json").read_text())
    added = [name for name in after["rows"] if name not in before["rows"]]
    assert len(added) == 3 and all(name.startswith("LocDiffusion + retrieval") for name in added)
    assert {name: after["rows"][name] for name in before["rows"]} == before["rows"] and after["gallery"] is None
    for name in added:
        assert name in (copy / "metrics.md").read_text() and after["rows"][name]["count"] == 40
        assert after["rows"][name]["accuracy"]["1"] == 0  # no training picture is that near


def test_geoclip_searches_with_the_embeddings_it_was_made_for(run, geoclip, tmp_path, monkeypatch, capsys):
    copy = str(shutil.copytree(run, tmp_path / "run"))
    monkeypatch.setattr(summaries, "predict_all", lambda *_: {"samples": None})
    monkeypatch.setattr(summaries, "score_model", lambda *_: {})
    monkeypatch.setattr(summaries, "score_baselines", lambda *_: {})
    monkeypatch.setattr(summaries, "GeoClip", lambda: geoclip)
    code, lines = outcome(evaluate.main, [copy, "--hybrid", "--gallery", "mp16"], capsys)
    assert code == 2 and len(lines) == 1 and "by ViT-L-14/openai, these are by 'thumbnail-16'" in lines[0]


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
        (["--top-k", "0"], "--top-k, --batch and --chunk must be at least 1"),
        (["--out", str(tmp_path / "p.txt")], "must be one of .csv, .jsonl, .geojson"),
        (["--out", str(tmp_path / "nowhere" / "p.csv")], "nowhere/p.csv: "),
        (["--text", "a street in Lisbon"], "--text needs a model trained on CLIP embeddings"),
    ):
        code, lines = outcome(predict.main, [str(run), *pictures, *extra], capsys)
        assert code == 2 and len(lines) == 1 and message in lines[0]
    empty = tmp_path / "none"
    empty.mkdir()
    np.save(empty / "embeddings.npy", np.empty((0, 768), np.float16))
    (empty / "locations.csv").write_text("id,lat,lon\n")
    (empty / "meta.json").write_text(json.dumps({"encoder": "thumbnail-16"}))
    predict.main([str(run), str(empty), "--map", str(tmp_path / "map.png")])
    assert len(capsys.readouterr().out.splitlines()) == 1 and not (tmp_path / "map.png").exists()
    code, lines = outcome(evaluate.main, [str(run), "--data", str(empty)], capsys)
    assert code == 2 and "holds no pictures to score on" in lines[0]


def test_predictions_are_the_same_in_every_format_and_from_python(run, pictures, tmp_path):
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(pictures[1], "deep/amazon.jpg")
    sources = [*pictures, str(tmp_path / "more.zip")]
    files = {ending: tmp_path / f"out{ending}" for ending in predict.FORMATS}
    for path in files.values():
        predict.main([str(run), *sources, "--top-k", "3", "--samples", "4", "--batch", "2", "--out", str(path)])
    table = list(csv.DictReader(files[".csv"].read_text().splitlines()))
    records = [json.loads(line) for line in files[".jsonl"].read_text().splitlines()]
    features = json.loads(files[".geojson"].read_text())["features"]
    names = [*pictures, str(tmp_path / "more.zip/deep/amazon.jpg")]
    assert [record["id"] for record in records] == names and len(table) == len(features)
    direct = predict.LocDiffusion.load(run).predict(pictures, samples=4, top_k=3)
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
    real, calls = predict.LocDiffusion.predict, []

    def stopped(self, *arguments, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return real(self, *arguments, **options)

    monkeypatch.setattr(predict.LocDiffusion, "predict", stopped)
    for ending in (".geojson", ".csv"):
        calls.clear()
        path = tmp_path / f"out{ending}"
        with pytest.raises(KeyboardInterrupt):
            predict.main([str(run), *pictures, "--batch", "1", "--samples", "0", "--out", str(path)])
        text = path.read_text()
        lines = json.loads(text)["features"] if ending == ".geojson" else list(csv.DictReader(text.splitlines()))
        assert len(lines) == 6  # all of the first picture, nothing of the second


@pytest.mark.skipif(blue_marble.torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none_is_refused(run, pictures, tmp_path, capsys):
    for main, argv in (
        (predict.main, [str(run), pictures[0]]),
        (evaluate.main, [str(run)]),
        (train.main, ["--preset", "smoke", "--out", str(tmp_path / "run")]),
        (embed.main, [str(tmp_path), str(tmp_path / "out")]),
    ):
        code, lines = outcome(main, [*argv, "--device", "cuda"], capsys)
        assert code == 2 and "device 'cuda' cannot be used" in lines[-1], lines
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()


def test_predict_takes_an_embeddings_folder(run, cache, capsys):
    folder = (
        blue_marble.blue_marble(blue_marble.BlueMarble(train_views=1, test_views=5, data_seed=7), progress=False)
        / "test"
    )
    predict.main([str(run), str(folder)])
    assert len(capsys.readouterr().out.splitlines()) == 1 + 5 * 7


def test_training_on_a_folder_of_embeddings(tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    generator = np.random.default_rng(0)
    np.save(folder / "embeddings.npy", generator.normal(size=(60, 12)).astype(np.float32))
    lines = [f"{i},{generator.uniform(-90, 90)},{generator.uniform(-180, 180)}" for i in range(60)]
    (folder / "locations.csv").write_text("\n".join(["IMG_ID,LAT,LON", *lines]))
    run = train.main([
        "--preset", "smoke", "--data", str(folder), "--holdout", "10", "--steps", "3", "--loss", "shdd_kl",
        "--no-exact-skip", "--temperature", "8", "--schedule", "cosine", "--shift", "16",
        "--out", str(tmp_path / "run"),
    ])  # fmt: skip
    assert json.loads((run / "config.json").read_text())["embed_dim"] == 12
    assert json.loads((run / "metrics.json").read_text())["held_out"] == 10
    assert (run / "predictions.png").exists()


def test_a_finished_run_can_be_resumed_and_evaluates_again(run, monkeypatch):
    monkeypatch.setattr(summaries, "PLAIN_GALLERY", 300)
    monkeypatch.setattr(summaries, "PLAIN_GRID_NSIDE", 8)
    before = (run / "model.safetensors").read_bytes()
    assert train.main(["--resume", str(run)]) == run
    assert (run / "model.safetensors").read_bytes() == before


def test_dry_run_prints_the_settings_and_writes_nothing(tmp_path, capsys):
    train.main(["--preset", "paper", "--l-max", "31", "--dry-run", "--out", str(tmp_path / "run")])
    settings = json.loads(capsys.readouterr().out)
    assert (settings["model"]["l_max"], settings["training"]["batch"]) == (31, 512)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("main", "argv", "message"),
    [
        (train.main, ["--color", "1"], "0 <= colour < 1"),
        (train.main, ["--colours", "1"], "unrecognized arguments: --colours 1"),
        (train.main, ["--lr", "fast"], "invalid float value: 'fast'"),
        (train.main, ["--loss", "l3"], "invalid choice: 'l3'"),
        (train.main, ["--loss", "l2"], "add --no-exact-skip"),
        (train.main, ["--data", "nowhere"], "nowhere is no folder"),
        (train.main, ["--resume", "nowhere"], "nowhere/training.json"),
        (train.main, ["--resume", "nowhere", "--lr", "1"], "takes no other settings"),
        (evaluate.main, [], "give the folder of a training run"),
        (evaluate.main, ["nowhere"], "nowhere/training.json"),
        (evaluate.main, ["nowhere", "--gallery", "mp16"], "--gallery says where --hybrid retrieves from; add --hybrid"),
        (evaluate.main, ["--truth", "t.csv"], "go together"),
        (evaluate.main, ["--truth", "t.csv", "--predictions", "p.csv"], "cannot read p.csv"),
        (predict.main, ["nowhere", "a.jpg"], "nowhere/config.json is missing"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line_and_code_2(main, argv, message, cache, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, lines = outcome(main, argv, capsys)
    assert code == 2 and len(lines) == 1 and message in lines[0], lines
    assert list(tmp_path.iterdir()) == []


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
    with pytest.raises(blue_marble.InputError, match=r"cannot read the picture .*cut.jpg: "):
        predict.LocDiffusion.load(run).predict([pictures[0], str(tmp_path / "cut.jpg")])
    code, lines = outcome(predict.main, [str(run), str(tmp_path / "cut.jpg"), "--map", str(drawn)], capsys)
    assert code == 2 and not drawn.exists()
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "holds no pictures"), ("absent.jpg", "does not exist")):
        code, lines = outcome(predict.main, [str(run), str(tmp_path / name)], capsys)
        assert code == 2 and len(lines) == 1 and message in lines[0]


def test_embeddings_of_another_encoder_are_refused_by_name(run, tmp_path, capsys):
    write_embeddings(tmp_path / "clip", blue_marble.torch.zeros(2, 768), blue_marble.torch.zeros(2, 2), "clip")
    for main, argv in [
        (predict.main, [str(run), str(tmp_path / "clip")]),
        (evaluate.main, [str(run), "--data", str(tmp_path / "clip")]),
    ]:
        code, lines = outcome(main, argv, capsys)
        assert code == 2 and "by 'clip', but this model was trained on 'thumbnail-16'" in lines[-1]


def test_anybodys_predictions_are_scored_by_id(tmp_path, capsys):
    truth, guess = tmp_path / "truth.csv", tmp_path / "guess.csv"
    truth.write_text("IMG_ID,LAT,LON\na,0,0\nb,10,10\nc,20,20\nd,30,30\n")
    guess.write_text("id,latitude,longitude\nd,30,30\nb,10,12\nc,,\nextra,1,1\n")
    evaluate.main(["--predictions", str(guess), "--truth", str(truth)])
    out = capsys.readouterr().out
    assert "| guess.csv | 25.0 | 25.0 | 25.0 | 50.0 | 50.0 | inf |" in out  # the median lies between 219 km and a miss
    assert "1 predictions have no true place" in out and "2 of 4 (guess.csv)" in out


@pytest.mark.parametrize(
    ("guess", "message"),
    [
        ("id,lat,lon\na,1,1\na,2,2\n", "'a' stands on 2 lines"),
        ("id,lat,lon\nz,1,1\n", "no id of"),
        ("id,lat,lon\na,91,0\n", "line 2"),
    ],
)
def test_predictions_that_cannot_be_scored_are_refused(tmp_path, capsys, guess, message):
    (tmp_path / "t.csv").write_text("id,lat,lon\na,0,0\n")
    (tmp_path / "g.csv").write_text(guess)
    code, lines = outcome(
        evaluate.main, ["--truth", str(tmp_path / "t.csv"), "--predictions", str(tmp_path / "g.csv")], capsys
    )
    assert code == 2 and message in lines[0] and "g.csv" in lines[0]


def test_help_teaches_and_modules_run_as_commands():
    for module in ("embed", "train", "evaluate", "predict", "simulation"):
        done = subprocess.run([sys.executable, "-m", f"locdiff.{module}", "--help"], capture_output=True, text=True)
        assert done.returncode == 0 and f"python -m locdiff.{module}" in done.stdout and done.stderr == ""
