"""The command `embed`, and the way from pictures to a trained model and back."""

import csv
import json
import os
import tarfile
import zipfile

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.clip import MODEL, random_weights
from support.commands import outcome
from support.pictures import damaged_zip, exif_bytes, gps, jpeg, locked_zip, make_pictures, unknown_zip

from locdiff import embed, evaluate, predict, train
from locdiff.data import archives
from locdiff.data.embeddings import read_embeddings
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
            "--batch", "32", "--lr", "0.005", "--l-max", "7", "--device", "cpu",
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
    assert "--text is experimental" in capsys.readouterr().err
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["id"] for record in records] == [*words, picture]
    encoder = make_encoder(f"open_clip:{MODEL}", weights)
    text = encoder.model.encode_text(open_clip.get_tokenizer(MODEL)(words))
    assert text.shape == (2, 24) and not torch.allclose(text[0], text[1])
    expected = Pipeline.load(run, "cpu").predict(text.detach(), samples=0)[1]
    np.testing.assert_allclose(records[1]["places"], expected.places, atol=1e-4)
    with pytest.raises(InputError, match="--text does not go with an embeddings folder"):
        predict.main([run, str(world / "data"), "--text", "snow", "--device", "cpu"])


def test_weights_that_are_none_are_refused(world, tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    options = ["--weights", str(tmp_path / "other.safetensors"), "--device", "cpu"]
    with pytest.raises(InputError, match="cannot get the weights"):
        predict.main([str(world / "run"), str(world / "pictures"), *options])


THUMBNAIL = ["--encoder", "thumbnail-16", "--workers", "0", "--device", "cpu"]


def photographs(folder, n, seed=0):
    """n noisy JPEG files with EXIF GPS; return the places (n, 2)."""
    rng, places = np.random.default_rng(seed), []
    folder.mkdir()
    for i in range(n):
        pixels = Image.fromarray(rng.integers(0, 255, (16, 16, 3)).astype(np.uint8))
        places.append((rng.uniform(-80, 80), rng.uniform(-180, 180)))
        pixels.save(folder / f"IMG_{i}.jpg", quality=95, exif=exif_bytes(gps=gps(*places[-1])))
    return np.array(places)


def failures(out):
    with open(out / "failures.csv", newline="") as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file)}


def test_one_of_every_bad_file_ends_no_run(tmp_path, capsys, monkeypatch):
    """Every good picture is embedded, every bad one named, and the exit code is 2."""
    source = tmp_path / "pictures"
    source.mkdir()
    monkeypatch.setattr(archives, "PICTURES", archives.PICTURES - {".heic"})
    good = {"a.jpg", "b.jfif", "x.zip/1.jpg", "y.tar/1.jpg", "link/c.jpg", "turned.jpg", "float.tif", "hard.jpg"}
    whole = jpeg(size=(400, 300))
    for name, data in {
        "a.jpg": jpeg(), "b.jfif": jpeg(), "empty.jpg": b"", "text.jpg": b"hello", "cut.jpg": whole[:900],
        "turned.jpg": jpeg(exif=exif_bytes(6)), "exif.jpg": jpeg(exif=exif_bytes(6, resolution=(-5, 3))),
        "phone.heic": b"x", "raw.dng": b"x", "notes.txt": b"x", "old.tgz": b"x", "broken.zip": b"x", "broken.tar": b"x",
    }.items():  # fmt: skip
        (source / name).write_bytes(data)
    with open(os.path.join(os.fsencode(source), b"caf\xe9.jpg"), "wb") as file:
        file.write(jpeg())
    Image.fromarray(np.linspace(0, 1, 1200, dtype=np.float32).reshape(30, 40)).save(source / "float.tif")
    Image.new("RGB", (4000, 200)).save(source / "large.png")
    for make, name in ((locked_zip, "locked"), (damaged_zip, "damaged"), (unknown_zip, "unknown")):
        make(source / f"{name}.zip", f"{name}.jpg")
    with zipfile.ZipFile(source / "x.zip", "w") as archive:
        archive.writestr("1.jpg", jpeg())
    (tmp_path / "1.jpg").write_bytes(jpeg())
    os.link(tmp_path / "1.jpg", tmp_path / "hard.jpg")
    with tarfile.open(source / "y.tar", "w") as archive:
        archive.add(tmp_path / "1.jpg", "1.jpg")
        archive.add(tmp_path / "hard.jpg", "hard.jpg")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/c.jpg").write_bytes(jpeg())
    (source / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(source)
    code, said = outcome(
        embed.main, [str(source), str(tmp_path / "data"), *THUMBNAIL, "--max-pixels", "700000"], capsys
    )
    assert code == 2 and set(read_embeddings(tmp_path / "data", with_places=False).ids) == good
    reasons = failures(tmp_path / "data")
    expected = {
        "empty.jpg": "0 bytes", "text.jpg": "not a picture", "cut.jpg": "truncated", "exif.jpg": "EXIF data are",
        "old.tgz": "unpack it first", "broken.zip": "not a zip", "broken.tar": "cannot read", "locked.jpg": "password",
        "damaged.jpg": "rror", "unknown.jpg": "compression", "large.png": "--max-pixels 800000",
        "caf\\xe9.jpg": "not UTF-8",
    }  # fmt: skip
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name], name
    text = "\n".join(said)
    assert "found 20 pictures\nused 8\nfailed 12: " in text and "without a place 8: " in text
    assert "ignored 1 .heic (needs pip install pillow-heif): phone.heic" in text
    assert "ignored 1 .dng (not supported: convert it to JPEG): raw.dng" in text and "1 .txt: notes.txt" in text
    assert said[-1].startswith("error: 12 pictures failed; ") and said[-1].endswith("failures.csv says why")


def test_a_folder_of_photographs_needs_no_table(tmp_path, capsys, undrawn, small_galleries):
    source, data, run = tmp_path / "photographs", tmp_path / "data", tmp_path / "run"
    places = photographs(source, 14)
    (source / "nowhere.jpg").write_bytes(jpeg())
    (source / "null.jpg").write_bytes(jpeg(exif=exif_bytes(gps=gps(0, 0))))
    embed.main([str(source), str(data), *THUMBNAIL])
    assert (
        "without a place 2: nowhere.jpg (no GPS in its EXIF data), null.jpg (EXIF GPS: (0, 0)"
        in capsys.readouterr().err
    )
    with open(data / "without_place.csv", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["nowhere.jpg", "null.jpg"]
    found = read_embeddings(data)
    assert len(found) == 14 and len(read_embeddings(data, with_places=False)) == 16
    np.testing.assert_allclose(found.lat_lon, places[[int(name[4:-4]) for name in found.ids]], atol=2e-6)
    settings = ["--preset", "smoke", "--steps", "3", "--holdout", "4", "--device", "cpu"]
    train.main([*settings, "--data", str(data), "--out", str(run)])
    assert "2 of 16 pictures have no place and are left out" in capsys.readouterr().err
    (source / "notes.txt").write_text("")
    predict.main([str(run), str(source), "--samples", "0", "--device", "cpu", "--out", str(tmp_path / "p.csv")])
    assert "found 16 pictures\nused 16\nignored 1 .txt: notes.txt\n" in capsys.readouterr().err
    with open(tmp_path / "p.csv", newline="") as file:
        assert len({row["id"] for row in csv.DictReader(file)}) == 16
    Image.new("RGB", (40, 30)).save(source / "large.png")
    with pytest.raises(InputError, match=r"1 of 1 pictures could not be read"):
        predict.main([str(run), str(source / "large.png"), "--device", "cpu", "--max-pixels", "1000"])
    assert "set --max-pixels 1200" in capsys.readouterr().err
    evaluate.main([str(run), "--data", str(data), "--device", "cpu"])
    assert json.loads((run / "metrics-data.json").read_text())["held_out"] == 14


def test_places_exif_goes_before_the_table_of_the_folder(tmp_path):
    places = photographs(tmp_path / "a", 2)
    (tmp_path / "a/t.csv").write_text("IMG_0.jpg,1,2\n")
    embed.main([str(tmp_path / "a"), str(tmp_path / "exif"), *THUMBNAIL, "--places", "exif"])
    np.testing.assert_allclose(read_embeddings(tmp_path / "exif").lat_lon, places, atol=2e-6)
    (tmp_path / "a/t.csv").write_text("IMG_0.jpg,1,2\nIMG_1.jpg,,\n")
    embed.main([str(tmp_path / "a"), str(tmp_path / "table"), *THUMBNAIL, "--columns", "id,lat,lon"])
    assert read_embeddings(tmp_path / "table").lat_lon.tolist() == [[1, 2]]
    assert "IMG_1.jpg,its line in the table has no place" in (tmp_path / "table/without_place.csv").read_text()
