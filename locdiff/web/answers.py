"""What the page is told of pictures and words. Everything stays in memory, and only the last answers are kept."""

import contextlib
import io
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from locdiff.data import gazetteer
from locdiff.data.decoding import MAX_PIXELS, decode
from locdiff.data.encoders import is_text_encoder
from locdiff.errors import InputError
from locdiff.pipeline import Pipeline, Prediction, summarize
from locdiff.viz import densities, tiles

MOST_BYTES = 50_000_000  # of a picture
MOST_LETTERS = 1000  # of words
MOST_PICTURES = 20  # chosen at once
MOST_MODES, SAMPLES, SHARES = 10, 16, (50, 90)
LEAST_PROBABILITY = 1e-4  # of a further mode that is shown
KEPT = 50  # answers
# of pictures, as Pillow names them; it hands others, such as EPS, to other programs
FORMATS = ("JPEG", "MPO", "JPEG2000", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")


class Refusal(Exception):
    """What the page asked for cannot be had: a sentence for its reader, and a status of HTTP."""

    def __init__(self, sentence: str, status: int = 422):
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """What is kept of a picture or of words: its density, a ratio to the uniform one, and what its file says."""

    ratio_at: Callable[[np.ndarray], np.ndarray]
    largest: float
    taken: tuple[float, float, str]  # degrees and "", or NaN and why the file says no place


class Answers:
    """Answers by a pipeline, one at a time; `sees` and `reads` are whether it takes pictures and words.

    Raises InputError if the model's encoder cannot be had.
    """

    def __init__(self, pipeline: Pipeline, max_pixels: int = MAX_PIXELS):
        encoder = pipeline.encoder
        self.sees = not is_text_encoder(pipeline.model.config.encoder)
        self.reads = hasattr(encoder, "encode_text")
        self.pipeline, self.max_pixels = pipeline, max_pixels
        self._kept: OrderedDict[str, Answer] = OrderedDict()
        self._lock = threading.Lock()

    def of_picture(self, name: str, data: bytes) -> dict[str, Any]:
        """Return the answer on the bytes of a picture. Raises Refusal if they are none."""
        if not self.sees:
            raise Refusal(f"{name} cannot be located: this model takes words, no pictures.")
        with self._lock:
            image, taken = self._read(name, data)
            try:
                embedding = self.pipeline.embed_images([image])
            except (ValueError, ZeroDivisionError) as error:  # of the preprocessing, such as a picture one pixel wide
                raise Refusal(f"{name} cannot be prepared for the model: {error}.") from None
            return self._answer(name, embedding, taken)

    def of_words(self, words: str) -> dict[str, Any]:
        """Return the answer on words. Raises Refusal for none, for too many, and by a model that reads none."""
        words = words.strip()
        if not self.reads:
            raise Refusal("Words cannot be located: this model takes pictures alone.")
        if not words:
            raise Refusal("The text is empty: type the words to locate.")
        if len(words) > MOST_LETTERS:
            raise Refusal(f"The text has {len(words):,} letters: type at most {MOST_LETTERS:,}.")
        with self._lock:
            return self._answer(words, self.pipeline.embed_text([words]), (np.nan, np.nan, "words have no file"))

    def tile(self, key: str, zoom: int, x: int, y: int) -> bytes:
        """Return a tile of an answer's density as png. Raises Refusal if there is none."""
        answer = self._get(key)
        try:
            return _bytes_of(tiles.density(answer.ratio_at, answer.largest, zoom, x, y), "png")
        except InputError as error:
            raise Refusal(f"{error}.", 404) from None

    def taken(self, key: str) -> dict[str, Any]:
        """Return the place in the file of an answer, or the reason why it has none. Raises Refusal for no answer."""
        lat, lon, reason = self._get(key).taken
        return {"reason": reason} if reason else _place(lat, lon)

    def _read(self, name, data):
        if not data:
            raise Refusal(f"{name} is empty: it has 0 bytes.")
        Image.init()
        try:
            return decode(data, self.max_pixels, [name for name in FORMATS if name in Image.OPEN])
        except ValueError as error:
            too_large = "--max-pixels" in str(error)
            raise Refusal(f"{name} cannot be read: {error}.", 413 if too_large else 415) from None

    def _answer(self, name, embedding, taken):
        with torch.no_grad():
            posterior = self.pipeline.model.posterior(embedding)
            (prediction,) = summarize(posterior, SAMPLES, MOST_MODES)
            largest, outlines = densities.largest_ratio(posterior, 0), tiles.region_outlines(posterior.pixel_probs[0])
        key = secrets.token_urlsafe(16)
        self._kept[key] = Answer(densities.between_pixels(posterior, 0), largest, taken)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return {"key": key, "name": name} | describe(prediction, outlines)

    def _get(self, key):
        with contextlib.suppress(KeyError):
            return self._kept[key]
        raise Refusal(f"This answer is no longer kept: the last {KEPT} are.", 404)


def describe(prediction: Prediction, outlines: Sequence[tiles.Outline]) -> dict[str, Any]:
    """Return what the page shows of a prediction, for JSON: degrees and km; rings and rims are lines of (lat, lon).

    The first mode is always there, the others if they have LEAST_PROBABILITY.
    """
    modes = sum(probability >= LEAST_PROBABILITY for probability in prediction.probabilities) or 1
    within = prediction.within
    return {
        "modes": _places(prediction.places[:modes], probability=prediction.probabilities[:modes]),
        "within": _places(
            [one[:2] for one in within.values()], km=list(within), probability=[one[2] for one in within.values()]
        ),
        "radius_50_km": prediction.radius_50_km,
        "radius_90_km": prediction.radius_90_km,
        "samples": prediction.samples,
        "regions": [_region(share, *outline) for share, outline in zip(SHARES, outlines, strict=False)],
    }


def _places(places, **columns):
    """Return places with the towns near them, and further values of each."""
    towns = gazetteer.describe(torch.tensor(places, dtype=torch.float64).view(-1, 2))
    rows = zip(*columns.values(), strict=True)
    return [
        {"lat": lat, "lon": lon, "where": town} | dict(zip(columns, values, strict=True))
        for (lat, lon), town, values in zip(places, towns, rows, strict=True)
    ]


def _place(lat, lon):
    return {"lat": lat, "lon": lon, "where": gazetteer.describe(torch.tensor([[lat, lon]]))[0]}


def _region(share, polygons, rims):
    polygons = [[_rounded(ring) for ring in polygon] for polygon in polygons]
    return {"share": share, "polygons": polygons, "rims": [_rounded(rim) for rim in rims]}


def _rounded(line):
    return line.round(3).tolist()


@lru_cache(maxsize=2000)
def earth_tile(zoom: int, x: int, y: int) -> bytes:
    """Return a tile of the map below the densities as webp. Raises Refusal if there is none."""
    try:
        return _bytes_of(tiles.earth(zoom, x, y), "webp")
    except InputError as error:
        raise Refusal(f"{error}.", 404) from None


def _bytes_of(image, kind):
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 85} if kind == "webp" else {}))
    return buffer.getvalue()
