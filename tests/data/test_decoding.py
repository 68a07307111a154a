"""One picture: whatever is wrong with it is a ValueError, and what can be read is."""

import os

import numpy as np
import pytest
from PIL import Image
from support.pictures import damaged_zip, exif_bytes, jpeg, locked_zip, unknown_zip

from locdiff.data.decoding import read_picture
from locdiff.data.pictures import Picture


@pytest.mark.parametrize(
    ("make", "message"),
    [(locked_zip, "password"), (damaged_zip, "error|Error"), (unknown_zip, "compression")],
)
def test_members_of_archives_that_cannot_be_unpacked_say_why(tmp_path, make, message):
    make(tmp_path / "a.zip", "a.jpg")
    with pytest.raises(ValueError, match=message):
        read_picture(Picture(str(tmp_path / "a.zip"), "a.jpg"))


def test_damaged_exif_data_are_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(exif=exif_bytes(6, resolution=(-5, 3))))
    with pytest.raises(ValueError, match=r"EXIF data are damaged \(error: "):  # struct.error
        read_picture(Picture(str(tmp_path / "a.jpg")))
    (tmp_path / "b.jpg").write_bytes(jpeg(exif=exif_bytes(6)))
    assert read_picture(Picture(str(tmp_path / "b.jpg"))).size == (30, 40)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match="no regular file"):
        read_picture(Picture(str(tmp_path / "pipe.jpg")))


def test_floating_point_pictures_are_scaled_by_their_range(tmp_path):
    values = np.linspace(-3, 7, 1200, dtype=np.float32).reshape(30, 40)
    values[0, 0] = np.nan
    for pixels in (values, (values[1:] * 1e6).astype(np.int32)):
        Image.fromarray(pixels).save(tmp_path / "a.tif")
        seen = np.asarray(read_picture(Picture(str(tmp_path / "a.tif"))))[..., 0]
        low, high = np.nanmin(pixels), np.nanmax(pixels)
        expected = 255 * (np.nan_to_num(pixels, nan=low).astype(np.float64) - low) / (high - low)
        assert seen.max() == 255 and np.abs(seen - expected).max() <= 0.51
    Image.fromarray(np.full((3, 4), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(ValueError, match="no pixel is a finite number"):
        read_picture(Picture(str(tmp_path / "nan.tif")))


def test_pictures_that_are_too_large_are_read_at_reduced_size_if_they_are_jpeg(tmp_path, monkeypatch):
    picture = Image.fromarray(np.kron(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5, np.ones((64, 64), np.uint8)))
    picture.save(tmp_path / "a.jpg", quality=95)
    picture.save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # the limit is the program's own, not Pillow's
    for limit, factor in ((512 * 384, 1), (512 * 384 - 1, 2), (20_000, 4), (64 * 48, 8)):
        small = read_picture(Picture(str(tmp_path / "a.jpg")), limit)
        assert small.size == (512 // factor, 384 // factor) and small.width * small.height <= limit
        blocks = np.asarray(small)[..., 0].reshape(6, 64 // factor, 8, 64 // factor).mean(axis=(1, 3))
        assert np.abs(blocks - np.arange(48).reshape(6, 8) * 5).max() < 3
    for name, limit in (("a.jpg", 64 * 48 - 1), ("a.png", 512 * 384 - 1)):
        with pytest.raises(ValueError, match=r"512 x 384 pixels are more than .*--max-pixels 196608"):
            read_picture(Picture(str(tmp_path / name)), limit)
    assert read_picture(Picture(str(tmp_path / "a.png"))).size == (512, 384) and Image.MAX_IMAGE_PIXELS == 1000


def test_pictures_of_telephones_under_another_name_are_known(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(ValueError, match="HEIF, which needs pip install pillow-heif"):
        read_picture(Picture(str(tmp_path / "a.jpg")))
