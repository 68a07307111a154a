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


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with twelve pictures, the file of a CLIP's weights, their embeddings, and a run that learnt them."""
    folder = tmp_path_factory.mktemp("embed")
    source, weights = make_pictures(folder / "pictures", 12), random_weights(folder)
    name = ["--encoder", f"open_clip:{MODEL}", "--weights", str(weights)]
    embed.main([str(source), str(folder / "data"), *name, "--workers", "0"])
    (folder / "split").mkdir()
    for part in ("train", "test"):
        (folder / "split" / part).symlink_to(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "report", lambda *_: None)  # which takes seconds
        train.main([
            "--preset", "smoke", "--data", str(folder / "split"), "--out", str(folder / "run"), "--steps", "300",
            "--batch", "32", "--lr", "0.005", "--l-max", "7", "--validation", "0", "--device", "cpu",
        ])  # fmt: skip
    return folder


def test_embed_says_how_many_and_which_failed(tmp_path, capsys):
    source, weights = make_pictures(tmp_path / "pictures", 3), random_weights(tmp_path)
    (source / "1.jpg").write_bytes(b"")
    name = ["--encoder", f"open_clip:{MODEL}", "--weights", str(weights)]
    with pytest.raises(InputError, match=r"1 pictures failed; .*failures.csv says why"):
        embed.main([str(source), str(tmp_path / "data"), *name, "--workers", "0"])
    said = capsys.readouterr()
    assert f"2 embeddings of 24 numbers by open_clip:{MODEL}/random-" in said.out
    assert "found 3 pictures\nused 2\nfailed 1: 1.jpg (the file is empty (0 bytes))" in said.err


def test_pictures_that_were_learnt_by_heart_are_found_again_from_their_files(world, capsys):
    weights, source = str(world / "random.safetensors"), world / "pictures"
    predict.main([str(world / "run"), str(source), "--weights", weights, "--samples", "1", "--device", "cpu"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    places = read_places(source / "places.csv")
    truth = dict(zip(places.ids, places.lat_lon, strict=True))
    assert len(rows) == 12
    near = [abs(float(row["lat"]) - truth[os.path.basename(row["id"])][0]) < 8 for row in rows]
    assert sum(near) >= 11


def test_words_are_located_beside_pictures(world, tmp_path, capsys):
    words, picture, out = ["a street in Lisbon", "snow"], str(world / "pictures" / "3.jpg"), tmp_path / "words.jsonl"
    weights, run = str(world / "random.safetensors"), str(world / "run")
    options = ["--weights", weights, "--samples", "0", "--device", "cpu", "--out", str(out)]
    predict.main([run, *(f"--text={text}" for text in words), picture, *options])
    assert "words are experimental" in capsys.readouterr().err
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["id"] for record in records] == [*words, picture]
    encoder = make_encoder(f"open_clip:{MODEL}", weights)
    text = encoder.model.encode_text(open_clip.get_tokenizer(MODEL)(words))
    assert text.shape == (2, 24) and not torch.allclose(text[0], text[1])
    expected = Pipeline.from_pretrained(run, "cpu").predict(text.detach(), samples=0)[1]
    np.testing.assert_allclose(records[1]["places"], expected.places, atol=1e-4)
    with pytest.raises(InputError, match="--text does not go with an embeddings folder"):
        predict.main([run, str(world / "data"), "--text", "snow", "--device", "cpu"])


def test_weights_that_are_none_are_refused(world, tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    options = ["--weights", str(tmp_path / "other.safetensors"), "--device", "cpu"]
    with pytest.raises(InputError, match="cannot get the weights"):
        predict.main([str(world / "run"), str(world / "pictures"), *options])
