"""One picture: its bytes to an upright RGB image, and the place in its EXIF data."""

import contextlib
import io
import math

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from locdiff.data.archives import read_bytes
from locdiff.data.exif import gps_place
from locdiff.options import whole

MAX_PIXELS = 178_956_970  # Pillow's own limit, half a GiB of RGB
REDUCED = (2, 4, 8)  # what JPEG can be read at: its blocks have 8 x 8 pixels


def add_max_pixels(parser):
    """Add the option --max-pixels to the parser of a command that reads pictures."""
    parser.add_argument(
        "--max-pixels", type=whole(1), default=MAX_PIXELS, metavar="N",
        help=f"read larger JPEGs at reduced size and refuse other pictures that are larger (default {MAX_PIXELS})",
    )  # fmt: skip


def read_picture(picture, max_pixels=MAX_PIXELS):
    """Return the picture as an upright RGB image; ValueError says what is wrong with it.

    A JPEG of more than `max_pixels` pixels is read at a half, a quarter or an eighth of its size; others are refused.
    """
    return read_picture_and_place(picture, max_pixels)[0]


def read_picture_and_place(picture, max_pixels=MAX_PIXELS):
    """Return what `read_picture` does, and (lat, lon, reason) of its EXIF data, as `exif.gps_place` gives them."""
    try:
        data = read_bytes(picture)
    except (ValueError, OSError) as error:
        raise ValueError(f"{error}") from None
    except Exception as error:  # zlib.error, RuntimeError of passwords, ...: one file must not end a run
        raise ValueError(f"{type(error).__name__}: {error}") from None
    return decode(data, max_pixels)


def decode(data, max_pixels=MAX_PIXELS, formats=None):
    """Return what `read_picture_and_place` does, of the bytes of a picture; `formats` are Pillow's names of those that
    are read, all if None."""
    try:
        with _any_size(), Image.open(io.BytesIO(data), formats=formats) as image:
            _reduce(image, max_pixels)
            image.load()
            place = gps_place(image.getexif())
            try:
                image = ImageOps.exif_transpose(image)
            except Exception as error:  # whatever Pillow raises when it writes damaged EXIF data anew
                raise ValueError(f"its EXIF data are damaged ({type(error).__name__}: {error})") from None
            return _eight_bits(image).convert("RGB"), place
    except UnidentifiedImageError:
        heif = data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"msf1")
        needs = ": it is HEIF, which needs pip install pillow-heif" if heif else ""
        raise ValueError(f"not a picture in a known format{needs}") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{error}") from None
    except Exception as error:  # struct.error, ...: whatever Pillow raises
        raise ValueError(f"{type(error).__name__}: {error}") from None


@contextlib.contextmanager
def _any_size():
    """Let `_reduce` decide which pictures are too large, instead of Pillow."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _reduce(image, max_pixels):
    """Have a JPEG that is too large decoded at the largest size that is not. Raises ValueError if there is none."""
    (width, height), pixels = image.size, image.size[0] * image.size[1]
    if pixels <= max_pixels:
        return
    if image.format in ("JPEG", "MPO"):
        for factor in REDUCED:
            if math.ceil(width / factor) * math.ceil(height / factor) <= max_pixels:
                image.draft(None, (width // factor, height // factor))
                return
    raise ValueError(f"{width} x {height} pixels are more than {max_pixels:,}; set --max-pixels {pixels} to read them")


def _eight_bits(image):
    """Pictures of 16 bits by their upper 8; of floating-point numbers or more bits by their range."""
    if not image.mode.startswith(("I", "F")):
        return image
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.max() > 65_535 or pixels.min() < 0:
        finite = np.isfinite(pixels)
        if not finite.any():
            raise ValueError("no pixel is a finite number")
        low, high = (float(f(pixels[finite])) for f in (np.min, np.max))
        scaled = (np.where(finite, pixels, low).astype(np.float64) - low) / ((high - low) or 1)
        return Image.fromarray((255 * scaled).round().astype(np.uint8))
    return Image.fromarray((pixels >> 8).clip(0, 255).astype(np.uint8))
