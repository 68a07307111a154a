"""Pictures that the tests make, and archives of them."""

import io
import tarfile

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
