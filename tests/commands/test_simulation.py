"""The command `simulation`: data to train and evaluate on."""

import json

import pytest
from support.commands import outcome
from support.simulation import small_world

from locdiff import evaluate, simulation, train
from locdiff.evaluation import report


@pytest.fixture(autouse=True)
def world(geoclip, cache, monkeypatch):
    return small_world(monkeypatch, geoclip)


def test_the_command_makes_data_to_train_and_evaluate_on(tmp_path, capsys, monkeypatch):
    """Without noise GeoCLIP finds every place that is in its gallery; the model's own rows stand beside it."""
    monkeypatch.setattr(report.sheets, "draw_predictions", lambda *_, **__: None)  # which takes seconds
    data = tmp_path / "deep" / "data"
    options = ["--train-places", "40", "--test-places", "9", "--draws", "2", "--noise", "0"]
    assert simulation.main([str(data), *options]) == data
    assert f"written: {data}; train on it with python -m locdiff.train --data {data}" in capsys.readouterr().out
    run = train.main(["--preset", "smoke", "--data", str(data), "--steps", "2", "--out", str(tmp_path / "run")])
    everywhere = tmp_path / "everywhere.csv"
    lines = (data / "gallery.csv").read_text().splitlines()
    lines += [f"test {line}" for line in (data / "test" / "locations.csv").read_text().splitlines()[1:]]
    everywhere.write_text("\n".join(lines))
    rows = {}
    for name in (str(everywhere), "grid:12"):
        evaluate.main([str(run), "--hybrid", "--gallery", name])
        records = [json.loads(path.read_text()) for path in run.glob("metrics-hybrid-*.json")]
        [record] = [record for record in records if record["gallery"] == name]
        rows[name] = {row: values["accuracy"]["1"] for row, values in record["rows"].items()}
    assert rows[str(everywhere)][f"Retrieval by GeoCLIP, gallery of {len(lines) - 1} places"] == 100
    assert rows["grid:12"]["Retrieval by GeoCLIP, gallery of 12 places"] == 0
    for row in (
        "within 200 km of its 4 samples (the paper's)",
        ", its 16 most probable modes weighed by the nearest pictures",
        ", density times retrieval score",
    ):
        [found] = [name for name in rows["grid:12"] if name.endswith(row)]
        assert (
            found.startswith("LocDiffusion + retrieval") and found in (run / "metrics-hybrid-everywhere.md").read_text()
        )
    assert rows[str(everywhere)]["LocDiffusion + retrieval, density times retrieval score"] == 100  # by its own weight


def test_an_existing_folder_is_not_written_to(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    code, lines = outcome(simulation.main, [str(tmp_path / "data")], capsys)
    assert code == 2 and "data exists already; choose another folder" in lines[0]
    assert not list((tmp_path / "data").iterdir())
    code, lines = outcome(simulation.main, [str(tmp_path / "new"), "--train-places", "1000"], capsys)
    assert code == 2 and len(lines) == 1 and "lower --train-places" in lines[0] and not (tmp_path / "new").exists()
