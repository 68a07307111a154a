"""Pictures to embeddings: rows, failures, shared work, kills and full disks."""

import csv
import json
import random
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from support.clip import MODEL, random_weights
from support.encoders import Brightness
from support.pictures import exif_bytes, gps, jpeg, make_pictures
from support.processes import embed_on_full_disk, embed_slowly, fresh_processes

from locdiff.data import encoders, encoding
from locdiff.data.embedding_progress import DONE, TODO, Progress, progress_key
from locdiff.data.embeddings import read_embeddings
from locdiff.data.places import read_places
from locdiff.errors import InputError


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    weights = random_weights(tmp_path_factory.mktemp("clip"))
    return encoders.make_encoder(f"open_clip:{MODEL}", str(weights))


def test_rows_are_the_encoders_own_and_meta_says_what_made_them(tmp_path, encoder):
    source = make_pictures(tmp_path / "pictures", 7)
    meta = encoding.embed(source, tmp_path / "out", encoder, batch=3, workers=2)
    data = read_embeddings(tmp_path / "out")
    assert data.encoder == encoder.name == meta["encoder"] and meta["pictures"] == 7 and meta["failed"] == 0
    assert data.encoder.startswith(f"open_clip:{MODEL}/random-") and data.authors[5] == "author 1"
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
    Progress(tmp_path / "out", progress_key(["other"], encoder.name), 4, True)
    with pytest.raises(InputError, match="begun with other pictures or texts, or another encoder"):
        encoding.embed(source, tmp_path / "out", encoder, workers=0)


def test_two_processes_share_the_work(tmp_path, encoder):
    source = make_pictures(tmp_path / "pictures", 9)
    encoding.embed(source, tmp_path / "alone", encoder, workers=0)
    assert (
        encoding.embed(source, tmp_path / "out", encoder, workers=0, rank=1, world=2, barrier=lambda: begin(tmp_path))
        is None
    )
    states = np.load(tmp_path / "out" / "unfinished" / "progress.npy")
    assert states.tolist() == [TODO, DONE] * 4 + [TODO]
    encoding.embed(source, tmp_path / "out", encoder, workers=0, rank=0, world=2)
    np.testing.assert_array_equal(*(np.load(tmp_path / name / "embeddings.npy") for name in ("alone", "out")))


def begin(folder):
    """What rank 0 does before the first barrier."""
    if not (folder / "out" / "unfinished").exists():
        ids = [f"{i}.jpg" for i in range(9)]
        name = next((folder / "alone").glob("meta.json")).read_text()
        Progress(folder / "out", progress_key(ids, json.loads(name)["encoder"]), 9, True)


def test_twenty_kills_lose_and_repeat_nothing_that_was_finished(tmp_path):
    """Killed at random moments, from its start to after its end; each kill repeats at most the batch it fell into."""
    source, out, count = make_pictures(tmp_path / "pictures", 120), tmp_path / "out", tmp_path / "count"
    (source / "7.jpg").write_bytes(b"")
    context, rng, kills, longest = fresh_processes(), random.Random(0), 0, 0.0
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
        assert longest == 0  # else it would never finish
    assert kills >= 15  # else the work was over too soon to be killed
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

    monkeypatch.setattr(encoding.os, "link", full_disk)
    with pytest.raises(InputError, match=r"No space left.*start the same command again"):
        encoding.embed(source, tmp_path / "out", encoder, workers=0)
    monkeypatch.undo()
    assert encoding.embed(source, tmp_path / "out", encoder, workers=0)["pictures"] == 4


def test_a_folder_that_cannot_be_written_into_is_an_error(tmp_path, encoder):
    source = make_pictures(tmp_path / "pictures", 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write into .*file/out"):
        encoding.embed(source, tmp_path / "file" / "out", encoder, workers=0)


def test_places_of_the_pictures_survive_a_kill(tmp_path):
    source, _ = killed_half_way(tmp_path, jpeg())
    for name in ("places.csv", "failures.csv"):  # what a full disk tears off
        with open(tmp_path / "out/unfinished" / name, "a") as file:
            file.write("4,1" if name == "places.csv" else "4")
    meta = encoding.embed(source, tmp_path / "out", Brightness(), batch=2, workers=0)
    data = read_embeddings(tmp_path / "out")
    assert data.ids == ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"] and meta["without_place"] == 1
    np.testing.assert_allclose(data.lat_lon, [[10 * i, 5] for i in range(1, 6)], atol=1e-6)
    assert (tmp_path / "out/without_place.csv").read_text().splitlines()[1:] == ["0.jpg,no GPS in its EXIF data"]


def test_a_picture_that_the_encoder_cannot_prepare_ends_no_run(tmp_path, encoder):
    source = make_pictures(tmp_path / "pictures", 3)

    class Picky(encoders.ThumbnailEncoder):
        @staticmethod
        def prepare(item):
            if item.width == 1:
                raise ZeroDivisionError("a picture one pixel wide")
            return encoders.ThumbnailEncoder.prepare(item)

    Image.new("RGB", (1, 9)).save(source / "1.jpg")
    assert encoding.embed(source, tmp_path / "out", Picky(), workers=0)["failed"] == 1
    assert "ZeroDivisionError: a picture one pixel wide" in (tmp_path / "out/failures.csv").read_text()


def test_a_third_of_many_ids_missing_is_listed(tmp_path):
    """All of them, and in memory that grows by less than 2 kB an id."""
    peaks, picture = {}, jpeg(size=(8, 8))
    for n in (150, 600, 3000):  # the first also imports what is imported late
        source, out = tmp_path / f"in{n}", tmp_path / f"out{n}"
        source.mkdir()
        with zipfile.ZipFile(source / "a.zip", "w") as archive:
            for i in range(n):
                if i % 3:
                    archive.writestr(f"{i // 100}/{i}.jpg", picture)
        (source / "t.csv").write_text("id,lat,lon\n" + "".join(f"{i}.jpg,1,2\n" for i in range(n)))
        tracemalloc.start()
        encoding.embed(source, out, encoders.ThumbnailEncoder(), workers=0)
        peaks[n] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        with open(out / "failures.csv", newline="") as file:
            assert [row["id"] for row in csv.DictReader(file)] == [f"{i}.jpg" for i in range(0, n, 3)]
        assert len(read_embeddings(out)) == n - n // 3
    assert peaks[3000] - peaks[600] < 2000 * 2400, peaks


def half_embedded(folder):
    """Embed six pictures, the first bad, until a kill after four; return the source and the folder."""
    return killed_half_way(folder, b"")


def killed_half_way(folder, first):
    """Embed six pictures, the bytes of the first and five with EXIF GPS, until a kill after four; source and folder."""
    source, out = folder / "a", folder / "out"
    source.mkdir()
    for i in range(6):
        (source / f"{i}.jpg").write_bytes(jpeg(exif=exif_bytes(gps=gps(10 * i, 5))) if i else first)

    class Killed(Brightness):
        def encode(self, batch):
            if len(self.encoded) == 2:
                raise KeyboardInterrupt
            return super().encode(batch)

    with pytest.raises(KeyboardInterrupt):
        encoding.embed(source, out, Killed(), batch=2, workers=0)
    return source, out


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "binary"])
@pytest.mark.parametrize("name", ["progress.npy", "embeddings.npy", "failures.csv", "places.csv"])
def test_what_is_missing_or_damaged_of_an_unfinished_folder_is_made_again(tmp_path, name, how):
    source, out = half_embedded(tmp_path)
    path = out / "unfinished" / name
    data = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "binary": bytes(range(256))}[how])
    meta = encoding.embed(source, out, Brightness(), batch=2, workers=0)
    assert (meta["pictures"], meta["failed"], meta["without_place"]) == (5, 1, 0)
    data, whole = read_embeddings(out), encoding.embed(source, tmp_path / "whole", Brightness(), batch=2, workers=0)
    np.testing.assert_array_equal(data.embeddings, np.load(tmp_path / "whole" / "embeddings.npy"))
    assert data.lat_lon.tolist() == [[10 * i, 5] for i in range(1, 6)] and whole.items() >= {"pictures": 5}.items()
    assert "0.jpg,the file" in (out / "failures.csv").read_text()


def test_places_of_the_pictures_are_noted_though_the_run_began_with_a_table(tmp_path):
    source, out = half_embedded(tmp_path)
    (out / "unfinished" / "places.csv").unlink()  # as if they had not been asked for
    encoding.embed(source, out, Brightness(), workers=0)
    assert np.isfinite(read_embeddings(out, with_places=False).lat_lon).all()


@pytest.mark.parametrize("name", ["key.txt", "progress.npy", "places.csv"])
def test_a_folder_in_the_place_of_a_file_is_named(tmp_path, name):
    source, out = half_embedded(tmp_path)
    (out / "unfinished" / name).unlink()
    (out / "unfinished" / name).mkdir()
    with pytest.raises(InputError, match=f"cannot write .*{name}"):
        encoding.embed(source, out, Brightness(), workers=0)


@pytest.mark.parametrize("size", [60, 130, 137, 300, 9000])
def test_a_disk_that_is_full_at_any_file_loses_nothing(tmp_path, size):
    """At progress.npy, at its last bytes, at key.txt, at failures.csv, and at the embeddings."""
    source, out = make_pictures(tmp_path / "pictures", 6), tmp_path / "out"
    (source / "3.jpg").write_text("no picture")
    context = fresh_processes()
    receiver, sender = context.Pipe()
    process = context.Process(target=embed_on_full_disk, args=(source, out, size, sender))
    process.start()
    process.join()
    said = receiver.recv() if receiver.poll() else "nothing"
    assert "File too large" in said and "\n" not in said
    assert encoding.embed(source, out, encoders.ThumbnailEncoder(), workers=0)["pictures"] == 5


def test_the_folder_of_the_pictures_is_none_to_write_into(tmp_path, encoder):
    source = make_pictures(tmp_path / "pictures", 2)
    with pytest.raises(InputError, match=r"pictures holds the pictures: give another folder"):
        encoding.embed(source, source, encoder, workers=0)
    assert len(list(source.iterdir())) == 3
