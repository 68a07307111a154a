"""The command `train`: what it leaves in the run folder."""

import json

import numpy as np
from PIL import Image
from support.commands import outcome

from locdiff import train
from locdiff.files import only_process


def test_training_leaves_a_run_folder_with_scores_and_pictures(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json", "training.json", "log.csv", "model.safetensors", "state.safetensors",
        "metrics.json", "metrics.md", "predictions.png", "calibration.png", "validation.csv", "validation.png",
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


def test_training_on_a_folder_of_embeddings(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    generator = np.random.default_rng(0)
    np.save(folder / "embeddings.npy", generator.normal(size=(60, 12)).astype(np.float32))
    lines = [f"{i},{generator.uniform(-90, 90)},{generator.uniform(-180, 180)}" for i in range(60)]
    (folder / "locations.csv").write_text("\n".join(["IMG_ID,LAT,LON", *lines]))
    run = train.main([
        "--preset", "smoke", "--data", str(folder), "--holdout", "10", "--steps", "3", "--loss", "shdd_kl",
        "--no-exact-skip", "--temperature", "8", "--schedule", "cosine", "--snr-shift", "16",
        "--out", str(tmp_path / "run"),
    ])  # fmt: skip
    assert json.loads((run / "config.json").read_text())["embed_dim"] == 12
    assert json.loads((run / "metrics.json").read_text())["held_out"] == 10
    assert (run / "predictions.png").exists()


def test_a_run_that_another_process_trains_is_refused(run, capsys):
    before = (run / "state.safetensors").read_bytes()
    with only_process(run, "training in"):
        code, lines = outcome(train.main, ["--resume", str(run)], capsys)
    assert code == 2 and len(lines) == 1 and f"another process is training in {run}" in lines[0]
    assert (run / "state.safetensors").read_bytes() == before
    with only_process(run, "training in"):  # the lock is free again
        pass


def test_a_finished_run_can_be_resumed_and_evaluates_again(run, small_galleries, undrawn):
    before = (run / "model.safetensors").read_bytes()
    assert train.main(["--resume", str(run)]) == run
    assert (run / "model.safetensors").read_bytes() == before


def test_dry_run_prints_the_settings_and_writes_nothing(tmp_path, capsys):
    train.main(["--preset", "paper", "--l-max", "31", "--dry-run", "--out", str(tmp_path / "run")])
    settings = json.loads(capsys.readouterr().out)
    assert (settings["model"]["network"]["l_max"], settings["training"]["batch"]) == (31, 512)
    assert not (tmp_path / "run").exists()
