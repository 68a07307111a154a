"""Pictures that the tests make, and archives of them."""

import io
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image


def jpeg(color=(200, 30, 30), size=(40, 30), **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "jpeg", **options)
    return buffer.getvalue()


def tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def zipped(path, names):
    """Write a zip archive of pictures of different colors."""
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(name, jpeg((40 * i, 90, 90)))


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


def _rational(kind, *parts):
    """The entry of an EXIF folder with the type (5 unsigned, 10 signed), and its data, of (numerator, denominator)."""
    form = "<II" if kind == 5 else "<ii"
    return kind, len(parts), b"".join(struct.pack(form, *part) for part in parts)


def exif_bytes(orientation=1, gps=None, resolution=None):
    """EXIF data byte by byte, since Pillow writes no damaged ones.

    gps is {tag: text or [(numerator, denominator), ...]}; resolution (numerator, denominator) is signed, which it must
    not be, so that Pillow cannot write it again.
    """
    main = {0x0112: (3, 1, struct.pack("<HH", orientation, 0))}
    if resolution:
        main[0x011A] = _rational(10, resolution)
    if gps is not None:
        main[0x8825] = (4, 1, None)
    folders = [main]
    if gps is not None:
        folders.append({
            tag: (2, 2, value.encode() + b"\0\0\0") if isinstance(value, str) else _rational(5, *value)
            for tag, value in sorted(gps.items())
        })  # fmt: skip
    data, start = b"II*\0" + struct.pack("<I", 8), 8
    for folder in folders:
        size = 2 + 12 * len(folder) + 4
        total = size + sum(len(value) for _, _, value in folder.values() if value and len(value) > 4)
        entries, more = struct.pack("<H", len(folder)), b""
        for tag, (kind, count, value) in folder.items():
            if value is None:  # where the next folder is
                value = struct.pack("<I", start + total)
            elif len(value) > 4:
                value, more = struct.pack("<I", start + size + len(more)), more + value
            entries += struct.pack("<HHI", tag, kind, count) + value
        data += entries + struct.pack("<I", 0) + more
        start += total
    return b"Exif\0\0" + data


def gps(lat, lon):
    """The GPS part of EXIF data for a place in degrees, as telephones write it: degrees, minutes, seconds."""

    def parts(x):
        x = abs(x)
        minutes = x % 1 * 60
        return [(int(x), 1), (int(minutes), 1), (round(minutes % 1 * 60 * 10_000), 10_000)]

    return {1: "S" if lat < 0 else "N", 2: parts(lat), 3: "W" if lon < 0 else "E", 4: parts(lon)}


def locked_zip(path, name):
    """A zip archive whose member says that it needs a password."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, jpeg())
    patch_zip(path, local=6, central=8, value=struct.pack("<H", 1))


def patch_zip(path, local, central, value):
    """Overwrite a field of the first member's headers, at these offsets in its local and its central header."""
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\3\4", local), (b"PK\1\2", central)):
        at = data.index(magic) + offset
        data[at : at + len(value)] = value
    path.write_bytes(bytes(data))


def damaged_zip(path, name):
    """A zip archive with damaged deflated data."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, jpeg())
    data = bytearray(path.read_bytes())
    at = 30 + len(name)
    data[at : at + 8] = b"\xff" * 8
    path.write_bytes(bytes(data))


def unknown_zip(path, name):
    """A zip archive by a compression that nobody knows."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, jpeg())
    patch_zip(path, local=8, central=10, value=struct.pack("<H", 77))


def photographs(folder, places, seed=0):
    """Write noisy JPEG files IMG_0.jpg, ... with the places (n, 2) in their EXIF data."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for i, place in enumerate(places):
        pixels = Image.fromarray(rng.integers(0, 255, (16, 16, 3)).astype(np.uint8))
        pixels.save(folder / f"IMG_{i}.jpg", quality=95, exif=exif_bytes(gps=gps(*place)))
