"""A folder with one of everything that `embed` may meet: what of it is embedded, and what is said of the rest."""

import io
import json
import os
import tarfile
import zipfile

import numpy as np
from PIL import Image

from support.pictures import damaged_zip, exif_bytes, gps, jpeg, locked_zip, tar, unknown_zip

MAX_PIXELS = 700_000  # less than large.png has
PLACE = (-33.8568, -70.6483)
GOOD = {  # ids of what is embedded, and the places that are known
    "a.jpg": None, "b.jfif": None, "float.tif": None, "turned.jpg": None, "nowhere.jpg": None, "here.jpg": PLACE,
    "x.zip/1.jpg": None, "y.tar/1.jpg": None, "hard.jpg": None, "link/c.jpg": None,
    "k1.left.jpg": (48.9, 2.4), "k1.right.JPG": (48.9, 2.4), "deep.er/K2.jpg": (-1, -2), "k3.jpg": None,
}  # fmt: skip
BAD = {  # ids of what fails, and a part of the reason
    "empty.jpg": "0 bytes", "text.jpg": "not a picture", "cut.jpg": "truncated", "exif.jpg": "EXIF data are",
    "old.tgz": "unpack it first", "broken.zip": "not a zip", "broken.tar": "cannot read", "locked.jpg": "password",
    "damaged.jpg": "rror", "unknown.jpg": "compression", "large.png": "--max-pixels 800000",
    "caf\\xe9.jpg": "not UTF-8", "soft.jpg": "link to 'nowhere.jpg'",
}  # fmt: skip
IGNORED = {".heic": "phone.heic", ".dng": "raw.dng", ".txt": "notes.txt"}  # without pillow-heif


def write_all(source, elsewhere):
    """Make the folder; a link in it leads to the folder `elsewhere`, and one there back."""
    source.mkdir()
    _write_files(source)
    _write_archives(source)
    elsewhere.mkdir()
    (elsewhere / "c.jpg").write_bytes(jpeg())
    (source / "link").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(source)


def _write_files(source):
    whole, no_numbers = jpeg(size=(400, 300)), gps(*PLACE) | {2: [(0, 0), (0, 0), (0, 0)]}
    for name, data in {
        "a.jpg": jpeg(), "b.jfif": jpeg(), "empty.jpg": b"", "text.jpg": b"hello", "cut.jpg": whole[:900],
        "turned.jpg": jpeg(exif=exif_bytes(6)), "exif.jpg": jpeg(exif=exif_bytes(6, resolution=(-5, 3))),
        "here.jpg": jpeg(exif=exif_bytes(gps=gps(*PLACE))), "nowhere.jpg": jpeg(exif=exif_bytes(gps=no_numbers)),
        "phone.heic": b"x", "raw.dng": b"x", "notes.txt": b"x", "old.tgz": b"x", "broken.zip": b"x", "broken.tar": b"x",
    }.items():  # fmt: skip
        (source / name).write_bytes(data)
    with open(os.path.join(os.fsencode(source), b"caf\xe9.jpg"), "wb") as file:
        file.write(jpeg())
    Image.fromarray(np.linspace(0, 1, 1200, dtype=np.float32).reshape(30, 40)).save(source / "float.tif")
    Image.new("RGB", (4000, 200)).save(source / "large.png")


def _write_archives(source):
    for make, name in ((locked_zip, "locked"), (damaged_zip, "damaged"), (unknown_zip, "unknown")):
        make(source / f"{name}.zip", f"{name}.jpg")
    with zipfile.ZipFile(source / "x.zip", "w") as archive:
        archive.writestr("1.jpg", jpeg())
    with tarfile.open(source / "y.tar", "w") as archive:
        info = tarfile.TarInfo("1.jpg")
        info.size = len(jpeg())
        archive.addfile(info, io.BytesIO(jpeg()))
        for name, kind, target in (
            ("hard.jpg", tarfile.LNKTYPE, "1.jpg"),
            ("soft.jpg", tarfile.SYMTYPE, "nowhere.jpg"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    note, other = (json.dumps({"lat": lat, "LON": lon}).encode() for lat, lon in ((48.9, 2.4), (-1, -2)))
    samples = ["k1.left.jpg", "k1.right.JPG", "deep.er/K2.jpg", "k3.jpg"]
    tar(source / "shard.tar", dict.fromkeys(samples, jpeg()) | {"K1.JSON": note, "deep.er/k2.json": other})
