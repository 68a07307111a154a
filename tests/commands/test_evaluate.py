"""The command `evaluate`: the run's table again, other pictures, retrieval, and anybody's predictions."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.calls import count_calls
from support.commands import outcome
from support.embeddings import write_folder

from locdiff import evaluate, memory, predict
from locdiff.evaluation import hybrid, report
from locdiff.pipeline import Pipeline


def test_evaluate_repeats_the_table_of_training(run, small_galleries, undrawn, capsys):
    before = json.loads((run / "metrics.json").read_text())
    table = (run / "metrics.md").read_text()
    evaluate.main([str(run)])
    assert json.loads((run / "metrics.json").read_text())["rows"] == before["rows"]
    assert (run / "metrics.md").read_text() == table and table in capsys.readouterr().out


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run, whose reports may be added to."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_evaluate_scores_another_folder_beside_the_run(copy, five_views, small_galleries, undrawn):
    evaluate.main([str(copy), "--data", str(five_views), "--samples", "2"])
    record = json.loads((copy / "metrics-test-samples2.json").read_text())
    assert record["held_out"] == 5 and record["data"] == str(five_views)


def test_evaluate_adds_rows_of_retrieval_from_the_training_pictures(copy, small_galleries, undrawn, capsys):
    before = (copy / "metrics.json").read_bytes()
    evaluate.main([str(copy), "--hybrid"])
    assert (copy / "metrics.json").read_bytes() == before  # the report of the training stays
    assert "differs from the report of the training" in capsys.readouterr().out
    before, after = (json.loads((copy / f"metrics{end}.json").read_text()) for end in ("", "-hybrid"))
    added = [name for name in after["rows"] if name not in before["rows"]]
    assert len(added) == 3 and all(name.startswith("LocDiffusion + retrieval") for name in added)
    assert {name: after["rows"][name] for name in before["rows"]} == before["rows"] and after["gallery"] is None
    for name in added:
        assert name in (copy / "metrics-hybrid.md").read_text() and after["rows"][name]["count"] == 40
        assert after["rows"][name]["accuracy"]["1"] == 0  # no training picture is that near


def test_what_differs_from_the_training_has_files_of_its_own(run, copy, monkeypatch):
    suffixes = []
    monkeypatch.setattr(evaluate, "report", lambda run, model, train, test, settings, e: suffixes.append(e.suffix))
    loads = count_calls(monkeypatch, evaluate, "load_data")
    own = json.loads((run / "training.json").read_text())["settings"]["training"]
    for extra in (
        [], ["--samples", str(own["samples"])], ["--seed", str(own["seed"])], ["--samples", "5", "--seed", "77"],
        ["--hybrid"], ["--hybrid", "--gallery", "grid:50"], ["--density", "--mean"], ["--thresholds", "10"],
    ):  # fmt: skip
        evaluate.main([str(copy), *extra])
    expected = ["", "", "", "-samples5-seed77", "-hybrid", "-hybrid-grid50", "-density-columns", "-columns"]
    assert suffixes == expected
    assert {settings.training.seed for (settings,) in loads} == {own["seed"]}  # no other pictures are held out


def test_evaluate_measures_densities_and_adds_columns(copy, small_galleries, undrawn, capsys):
    evaluate.main([str(copy), "--density", "--thresholds", "10", "1000", "--mean"])
    record = json.loads((copy / "metrics-density-columns.json").read_text())
    found, nats = record["density_metrics"], record["one_pass_density"]["nats_over_uniform"]
    assert found["bits_per_dimension"] == pytest.approx((math.log(4 * math.pi) - nats) / (3 * math.log(2)), rel=1e-5)
    assert found["localizability"] >= -math.log2(4 * math.pi) - 1e-4
    row = record["rows"]["LocDiffusion, one-pass density, most probable mode"]
    assert list(row["accuracy"]) == ["1", "10", "25", "200", "750", "1000", "2500"] and row["mean_km"] > 0
    text = (copy / "metrics-density-columns.md").read_text()
    assert "bits per dimension: " in text and "| 10 km | 25 km |" in text and "| mean km |" in text


def test_no_pictures_have_no_score(run, tmp_path, capsys):
    empty = write_folder(tmp_path / "none", np.empty((0, 768), np.float16), [], '{"encoder": "thumbnail-16"}')
    code, lines = outcome(evaluate.main, [str(run), "--data", str(empty)], capsys)
    assert code == 2 and "holds no embeddings" in lines[0]


def test_the_size_of_batches_follows_from_the_memory(run, monkeypatch):
    monkeypatch.setattr(memory, "_megabytes", memory.DEFAULT_MB)  # of this process, which the command changes
    sizes = []
    monkeypatch.setattr(evaluate, "report", lambda run, model, *_: sizes.append(model.posterior_batch_size))
    for megabytes in ("512", "1"):
        evaluate.main([str(run), "--memory", megabytes])
    assert sizes[0] >= 512 * sizes[1] and sizes[1] == 4


def test_geoclip_searches_with_the_embeddings_it_was_made_for(run, geoclip, tmp_path, monkeypatch, capsys):
    copy = str(shutil.copytree(run, tmp_path / "run"))
    monkeypatch.setattr(report, "predict_all", lambda *_: {"samples": None})
    monkeypatch.setattr(report, "score_model", lambda *_: {})
    monkeypatch.setattr(report, "baseline_places", lambda *_: {})
    monkeypatch.setattr(hybrid, "GeoClip", lambda: geoclip)
    code, lines = outcome(evaluate.main, [copy, "--hybrid", "--gallery", "mp16"], capsys)
    assert code == 2 and len(lines) == 1 and "by open_clip:ViT-L-14/openai, these are by 'thumbnail-16'" in lines[0]


def test_anybodys_predictions_are_scored_by_id(tmp_path, capsys):
    truth, guess = tmp_path / "truth.csv", tmp_path / "guess.csv"
    truth.write_text("IMG_ID,LAT,LON\na,0,0\nb,10,10\nc,20,20\nd,30,30\n")
    guess.write_text("id,latitude,longitude\nd,30,30\nb,10,12\nc,,\nextra,1,1\n")
    evaluate.main(["--predictions", str(guess), "--truth", str(truth)])
    out = capsys.readouterr().out
    assert "| guess.csv | 25.0 | 25.0 | 25.0 | 50.0 | 50.0 | inf |" in out  # the median lies between 219 km and a miss
    assert "matched 3 of 4 true places; missing 1 (a); unknown 1 (extra); failed 1 (c)" in out
    assert out.index("matched") < out.index("| guess.csv") and "2 of 4 (guess.csv)" in out


@pytest.mark.parametrize("value", ["91,0", "nan,0", "0,inf", "0,400", "0,-181", ",", "x,y", "-90.1,5"])
def test_a_prediction_that_is_no_place_is_a_miss(tmp_path, capsys, value):
    (tmp_path / "t.csv").write_text("id,lat,lon\na,0,0\nb,0,1\n")
    (tmp_path / "g.csv").write_text(f"id,lat,lon\na,{value}\nb,0,1.001\n")
    evaluate.main(["--truth", str(tmp_path / "t.csv"), "--predictions", str(tmp_path / "g.csv")])
    out = capsys.readouterr().out
    assert "failed 1 (a)" in out and "| g.csv | 50.0 |" in out


def test_columns_on_request(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("id,lat,lon\na,0,0\nb,0,0\n")
    (tmp_path / "g.csv").write_text("id,lat,lon\na,0,0.05\nb,0,8\n")  # 5.6 and 889.6 km
    argv = ["--truth", str(tmp_path / "t.csv"), "--predictions", str(tmp_path / "g.csv")]
    evaluate.main([*argv, "--thresholds", "5", "10", "1000", "--mean"])
    out = capsys.readouterr().out
    heads = "| 1 km | 5 km | 10 km | 25 km | 200 km | 750 km | 1000 km | 2500 km | median km | GeoScore | mean km |"
    assert heads in out and out.strip().endswith("| 448 |")
    assert "| g.csv | 0.0 | 0.0 | 50.0 | 50.0 | 50.0 | 50.0 | 100.0 | 100.0 | 448 | " in out
    code, lines = outcome(evaluate.main, [*argv, "--thresholds", "0"], capsys)
    assert code == 2 and "above 0" in lines[0]


def test_true_places_that_are_scored_as_predictions_are_told(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("id,lat,lon\na,5,6\nb,7,8\n")
    (tmp_path / "g.csv").write_text("IMG_ID,LAT,LON,LAT_pred,LON_pred\na,5,6,5,9\nb,7,8,7,8\n")
    argv = ["--truth", str(tmp_path / "t.csv"), "--predictions"]
    evaluate.main([*argv, str(tmp_path / "g.csv")])
    found = capsys.readouterr()
    assert "| g.csv | 50.0 |" in found.out and found.err == ""
    evaluate.main([*argv, str(tmp_path / "t.csv")])
    assert "warning: every distance is zero" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("guess", "message"),
    [
        ("id,lat,lon\na,1,1\na,2,2\n", "'a' stands on 2 lines"),
        ("id,lat,lon\nz,1,1\n", "'z' in the one, 'a' in the other"),
        ("id,gt_lat,gt_long\na,1,1\n", "no column for lat, lon"),
        ("", "is empty"),
    ],
)
def test_predictions_that_cannot_be_scored_are_refused(tmp_path, capsys, guess, message):
    (tmp_path / "t.csv").write_text("id,lat,lon\na,0,0\n")
    (tmp_path / "g.csv").write_text(guess)
    code, lines = outcome(
        evaluate.main, ["--truth", str(tmp_path / "t.csv"), "--predictions", str(tmp_path / "g.csv")], capsys
    )
    assert code == 2 and message in lines[0] and "g.csv" in lines[0]


@pytest.mark.parametrize("name", ["p.csv", "long.csv", "p.jsonl", "p.geojson"])
def test_what_predict_writes_can_be_scored(run, pictures, tmp_path, capsys, name):
    """By ids without the folders that predict was given; the score is that of the first places."""
    out = tmp_path / name
    predict.main(
        [str(run), *pictures, "--top-k", "2", "--samples", "2", "--out", str(out), *["--long"] * ("long" in name)]
    )
    best = Pipeline.from_pretrained(run).predict(pictures, samples=0)
    rows = [f"{Path(p).stem},{one.places[0][0] + 1},{one.places[0][1]}" for p, one in zip(pictures, best, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["id,lat,lon", *rows]))
    capsys.readouterr()
    evaluate.main(["--truth", str(tmp_path / "t.csv"), "--predictions", str(out)])
    printed = capsys.readouterr().out
    assert "matched 2 of 2 true places; missing 0; unknown 0; failed 0" in printed
    assert f"| {name} | 0.0 | 0.0 | 100.0 | 100.0 | 100.0 | 111 |" in printed


def test_pictures_without_a_true_place_are_left_out_and_counted(tmp_path, capsys):
    """As `embed` writes the table of its pictures."""
    (tmp_path / "t.csv").write_text("id,lat,lon\na,0,0\nb,,\n")
    (tmp_path / "g.csv").write_text("id,lat,lon\na,0,1\nb,5,5\n")
    evaluate.main(["--truth", str(tmp_path / "t.csv"), "--predictions", str(tmp_path / "g.csv")])
    printed = capsys.readouterr()
    assert "1 of 2 have no place and are left out" in printed.err
    assert "matched 1 of 1 true places; missing 0; unknown 1 (b); failed 0" in printed.out
