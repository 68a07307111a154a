"""Pictures to embeddings with a small open_clip model of random weights, kills and failures included."""

import csv
import json
import multiprocessing
import os
import random
import time

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from locdiff import embed, predict, train
from locdiff.data import encoders, encoding
from locdiff.data.embeddings import read_embeddings, train_and_test
from locdiff.data.places import read_places
from locdiff.errors import InputError

MODEL = "ViT-S-32-tiny"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A CLIP of two small layers, known to open_clip by name, with random weights in a file."""
    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (folder / f"{MODEL}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{MODEL}.json")
    torch.manual_seed(0)
    save_file(open_clip.create_model(MODEL).state_dict(), folder / "random.safetensors")
    return folder / "random.safetensors"


@pytest.fixture(scope="module")
def encoder(weights):
    return encoders.ClipEncoder(encoders.ClipSettings(MODEL, str(weights)), "cpu")


def make_pictures(folder, n, seed=0):
    """n noisy pictures with places and authors, a folder that `embed` takes."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    with open(folder / "places.csv", "w") as file:
        file.write("IMG_ID,AUTHOR,LAT,LON\n")
        for i in range(n):
            pixels = rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).resize((48, 36), Image.Resampling.NEAREST).save(folder / f"{i}.jpg", quality=95)
            file.write(f"{i}.jpg,author {i // 3},{rng.uniform(-80, 80):.4f},{rng.uniform(-180, 180):.4f}\n")
    return folder


def test_rows_are_the_encoders_own_and_meta_says_what_made_them(tmp_path, encoder):
    source = make_pictures(tmp_path / "pictures", 7)
    meta = encoding.embed(source, tmp_path / "out", encoder, batch=3, workers=2)
    data = read_embeddings(tmp_path / "out")
    assert data.encoder == encoder.name == meta["encoder"] and meta["pictures"] == 7 and meta["failed"] == 0
    assert data.encoder.startswith(f"{MODEL}/random-") and data.authors[5] == "author 1"
    assert data.embeddings.dtype == np.float16 and data.embeddings.shape == (7, 24)
    np.testing.assert_allclose(data.lat_lon, read_places(source / "places.csv").lat_lon, atol=1e-4)
    alone = encoder.model.encode_image(encoder.prepare(Image.open(source / "4.jpg"))[None])
    torch.testing.assert_close(data.batch([4])[0], alone, rtol=2e-3, atol=2e-3)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["embeddings.npy", "locations.csv", "meta.json"]
    with pytest.raises(InputError, match="is finished"):
        encoding.embed(source, tmp_path / "out", encoder)


def test_failures_are_listed_and_left_out(tmp_path, encoder):
    source = make_pictures(tmp_path / "pictures", 6)
    (source / "1.jpg").write_bytes(b"")
    (source / "2.jpg").write_bytes((source / "2.jpg").read_bytes()[:300])
    (source / "4.jpg").unlink()
    meta = encoding.embed(source, tmp_path / "out", encoder, batch=2, workers=0)
    assert (meta["pictures"], meta["failed"]) == (3, 3)
    with open(tmp_path / "out" / "failures.csv", newline="") as file:
        reasons = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert (
        "0 bytes" in reasons["1.jpg"]
        and "runcated" in reasons["2.jpg"]
        and "no picture of this name" in reasons["4.jpg"]
    )
    data = read_embeddings(tmp_path / "out")
    assert data.ids == ["0.jpg", "3.jpg", "5.jpg"]
    for i in (0, 3, 5):
        (source / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the 6 pictures could be read; the first: 0.jpg: .*0 bytes"):
        encoding.embed(source, tmp_path / "other", encoder, workers=0)


def test_other_pictures_or_another_encoder_do_not_go_on_in_the_same_folder(tmp_path, encoder):
    source = make_pictures(tmp_path / "pictures", 4)
    encoding._Progress(tmp_path / "out", encoding._key(["other"], encoder.name), 4, True)
    with pytest.raises(InputError, match="begun with other pictures or another encoder"):
        encoding.embed(source, tmp_path / "out", encoder, workers=0)


def test_two_processes_share_the_work(tmp_path, encoder):
    source = make_pictures(tmp_path / "pictures", 9)
    encoding.embed(source, tmp_path / "alone", encoder, workers=0)
    assert (
        encoding.embed(source, tmp_path / "out", encoder, workers=0, rank=1, world=2, barrier=lambda: begin(tmp_path))
        is None
    )
    states = np.load(tmp_path / "out" / "unfinished" / "progress.npy")
    assert states.tolist() == [encoding.TODO, encoding.DONE] * 4 + [encoding.TODO]
    encoding.embed(source, tmp_path / "out", encoder, workers=0, rank=0, world=2)
    np.testing.assert_array_equal(*(np.load(tmp_path / name / "embeddings.npy") for name in ("alone", "out")))


def begin(folder):
    """What rank 0 does before the first barrier."""
    if not (folder / "out" / "unfinished").exists():
        ids = [f"{i}.jpg" for i in range(9)]
        name = next((folder / "alone").glob("meta.json")).read_text()
        encoding._Progress(folder / "out", encoding._key(ids, json.loads(name)["encoder"]), 9, True)


class SlowEncoder:
    """The mean colour, slowly; every picture that is encoded is noted in the file `count`."""

    name, prepare = "slow", staticmethod(encoders.ThumbnailEncoder.prepare)

    def __init__(self, count):
        self.count = count

    def encode(self, batch):
        time.sleep(0.01)
        with open(self.count, "a") as file:
            file.write(f"{len(batch)} ")
        return batch.mean(dim=(2, 3))


def embed_slowly(source, out, count):
    encoding.embed(source, out, SlowEncoder(count), batch=2, workers=0)


def test_twenty_kills_lose_and_repeat_nothing_that_was_finished(tmp_path, monkeypatch):
    """Killed at random moments, from its start to after its end; each kill repeats at most the batch it fell into."""
    source, out, count = make_pictures(tmp_path / "pictures", 120), tmp_path / "out", tmp_path / "count"
    (source / "7.jpg").write_bytes(b"")
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__), prepend=os.pathsep)
    context = multiprocessing.get_context("forkserver")  # a new process without importing torch again
    context.set_forkserver_preload([__name__])
    rng, kills, longest = random.Random(0), 0, 0.0
    while not (out / "embeddings.npy").exists():
        process = context.Process(target=embed_slowly, args=(source, out, count))
        process.start()
        if kills < 20:
            began = len(count.read_text()) if count.exists() else 0
            while process.is_alive() and (len(count.read_text()) if count.exists() else 0) <= began:
                time.sleep(0.001)  # until it works, however slow the machine starts it
            time.sleep(rng.uniform(0, 0.06))
            process.kill()
            kills += 1
        process.join()
        longest = max(longest, process.exitcode)
    assert kills >= 15 and longest == 0  # else the work was over too soon to be killed, or failed by itself
    encoded = sum(map(int, count.read_text().split()))
    assert 119 <= encoded <= 119 + 2 * kills
    data = read_embeddings(out)
    assert data.ids == [f"{i}.jpg" for i in range(120) if i != 7]
    for position, name in enumerate(data.ids):
        expected = encoders.ThumbnailEncoder.prepare(Image.open(source / name)).mean(dim=(1, 2))
        torch.testing.assert_close(data.batch([position])[0][0], expected, rtol=0, atol=1e-3)
    with open(out / "failures.csv", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["7.jpg"]


def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path, encoder, monkeypatch):
    source = make_pictures(tmp_path / "pictures", 4)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embed.os, "link", full_disk)
    with pytest.raises(InputError, match=r"No space left.*start the same command again"):
        encoding.embed(source, tmp_path / "out", encoder, workers=0)
    monkeypatch.undo()
    assert encoding.embed(source, tmp_path / "out", encoder, workers=0)["pictures"] == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_to_write_is_an_error(tmp_path, encoder):
    source = make_pictures(tmp_path / "pictures", 2)
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot write into"):
        encoding.embed(source, tmp_path / "locked" / "out", encoder, workers=0)


def test_weights_that_cannot_be_had_name_the_remedy(tmp_path):
    for settings in (
        encoders.ClipSettings("no-such-model"),
        encoders.ClipSettings("ViT-S-32", str(tmp_path / "absent.pt")),
    ):
        with pytest.raises(InputError, match=r"--weights FILE"):
            encoders.ClipEncoder(settings, "cpu")


def test_from_pictures_to_a_trained_model_and_predictions(tmp_path, weights, capsys):
    """Embed, train, predict: twelve pictures are learnt by heart, and found again from the files themselves."""
    source = make_pictures(tmp_path / "pictures", 12)
    embed.main([str(source), str(tmp_path / "data"), "--model", MODEL, "--weights", str(weights), "--workers", "0"])
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
    truth = dict(zip(*(lambda p: (p.ids, p.lat_lon))(read_places(source / "places.csv")), strict=True))
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
    model, encoder = (
        predict.LocDiffusion.load(run, "cpu"),
        encoders.ClipEncoder(encoders.ClipSettings(MODEL, str(weights)), "cpu"),
    )
    text = encoder.model.encode_text(open_clip.get_tokenizer(MODEL)(words))
    assert text.shape == (2, 24) and not torch.allclose(text[0], text[1])
    np.testing.assert_allclose(records[1]["places"], model.predict(text, samples=0)[1].places, atol=1e-4)
    with pytest.raises(InputError, match="--text does not go with an embeddings folder"):
        predict.main([str(run), str(tmp_path / "data"), "--text", "snow", "--device", "cpu"])
    other = weights.with_name("other.safetensors")
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(InputError, match=r"cannot get the weights"):
        predict.main([str(run), str(source), "--weights", str(other), "--device", "cpu"])


def test_photographers_are_kept_apart(tmp_path, encoder):
    source = make_pictures(tmp_path / "pictures", 30)
    encoding.embed(source, tmp_path / "out", encoder, workers=0)
    learnt, held_out = train_and_test(tmp_path / "out", 4, seed=1, split="author")
    assert not set(learnt.authors) & set(held_out.authors) and len(held_out) == 6 and len(learnt) == 24
    with pytest.raises(InputError, match="leaves nothing to train on"):
        train_and_test(tmp_path / "out", 29, split="author")
    folder = train_and_test(tmp_path / "out", 4, seed=1)
    assert len(folder[1]) == 4
