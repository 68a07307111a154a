"""The command `evaluate`: the run's table again, other pictures, retrieval, and anybody's predictions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.commands import outcome
from support.embeddings import write_folder

from locdiff import evaluate, memory
from locdiff.evaluation import hybrid, report


def test_evaluate_repeats_the_table_of_training(run, small_galleries, undrawn, capsys):
    before = json.loads((run / "metrics.json").read_text())
    table = (run / "metrics.md").read_text()
    evaluate.main([str(run)])
    assert json.loads((run / "metrics.json").read_text())["rows"] == before["rows"]
    assert (run / "metrics.md").read_text() == table and table in capsys.readouterr().out


def test_evaluate_scores_another_folder_beside_the_run(run, five_views, small_galleries):
    evaluate.main([str(run), "--data", str(five_views), "--samples", "2"])
    record = json.loads((run / "metrics-test.json").read_text())
    assert record["held_out"] == 5 and record["data"] == str(five_views)
    for path in run.glob("*-test.*"):
        path.unlink()


def test_evaluate_adds_rows_of_retrieval_from_the_training_pictures(run, tmp_path, small_galleries, undrawn):
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


def test_no_pictures_have_no_score(run, tmp_path, capsys):
    empty = write_folder(tmp_path / "none", np.empty((0, 768), np.float16), [], '{"encoder": "thumbnail-16"}')
    code, lines = outcome(evaluate.main, [str(run), "--data", str(empty)], capsys)
    assert code == 2 and "holds no pictures to score on" in lines[0]


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
    monkeypatch.setattr(report, "score_baselines", lambda *_: {})
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
