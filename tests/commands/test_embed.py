"""The command `embed`, and the way from pictures to a trained model and back."""

import csv
import json
import os

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from support.clip import MODEL, random_weights
from support.pictures import make_pictures

from locdiff import embed, predict, train
from locdiff.data.encoders import make_encoder
from locdiff.data.places import read_places
from locdiff.errors import InputError
from locdiff.pipeline import Pipeline


def test_from_pictures_to_a_trained_model_and_predictions(tmp_path, capsys):
    """Embed, train, predict: twelve pictures are learnt by heart, and found again from the files themselves."""
    source, weights = make_pictures(tmp_path / "pictures", 12), random_weights(tmp_path)
    name = ["--encoder", f"open_clip:{MODEL}", "--weights", str(weights)]
    embed.main([str(source), str(tmp_path / "data"), *name, "--workers", "0"])
    assert "12 embeddings of 24 numbers" in capsys.readouterr().out
    for part in ("train", "test"):
        (tmp_path / "split" / part).parent.mkdir(exist_ok=True)
        (tmp_path / "split" / part).symlink_to(tmp_path / "data")
    run = tmp_path / "run"
    train.main([
        "--preset", "smoke", "--data", str(tmp_path / "split"), "--out", str(run), "--steps", "300", "--batch", "32",
        "--lr", "0.005", "--l-max", "7", "--samples", "2", "--device", "cpu",
    ])  # fmt: skip
    capsys.readouterr()
    predict.main([str(run), str(source), "--weights", str(weights), "--samples", "1", "--device", "cpu"])
    rows = [r for r in csv.DictReader(capsys.readouterr().out.splitlines()) if r["prediction"] == "place 1"]
    places = read_places(source / "places.csv")
    truth = dict(zip(places.ids, places.lat_lon, strict=True))
    assert len(rows) == 12
    near = [abs(float(row["lat"]) - truth[os.path.basename(row["id"])][0]) < 8 for row in rows]
    assert sum(near) >= 11
    words = ["a street in Lisbon", "snow"]
    out = tmp_path / "words.jsonl"
    options = ["--weights", str(weights), "--samples", "0", "--device", "cpu", "--out", str(out)]
    predict.main([str(run), *(f"--text={text}" for text in words), str(source / "3.jpg"), *options])
    assert "--text is experimental" in capsys.readouterr().err
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["id"] for record in records] == [*words, str(source / "3.jpg")]
    encoder = make_encoder(f"open_clip:{MODEL}", str(weights))
    text = encoder.model.encode_text(open_clip.get_tokenizer(MODEL)(words))
    assert text.shape == (2, 24) and not torch.allclose(text[0], text[1])
    expected = Pipeline.load(run, "cpu").predict(text.detach(), samples=0)[1]
    np.testing.assert_allclose(records[1]["places"], expected.places, atol=1e-4)
    with pytest.raises(InputError, match="--text does not go with an embeddings folder"):
        predict.main([str(run), str(tmp_path / "data"), "--text", "snow", "--device", "cpu"])
    other = weights.with_name("other.safetensors")
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(InputError, match=r"cannot get the weights"):
        predict.main([str(run), str(source), "--weights", str(other), "--device", "cpu"])
