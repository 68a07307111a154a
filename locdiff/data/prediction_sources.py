"""What `predict` is given, batch by batch: picture files, words, tables of words, or an embeddings folder."""

import itertools
import os
import sys
from pathlib import Path

import torch
from PIL import Image

from locdiff.data import blue_marble
from locdiff.data.archives import ending
from locdiff.data.decoding import MAX_PIXELS
from locdiff.data.embeddings import read_embeddings
from locdiff.data.encoders import is_text_encoder
from locdiff.data.encoding import EMPTY, encode_pictures
from locdiff.data.pictures import find_pictures, read_picture
from locdiff.data.places import TABLES, read_texts
from locdiff.data.tally import Tally
from locdiff.errors import InputError


def read_sources(sources, texts, pipeline, batch, workers, tally=None, max_pixels=MAX_PIXELS):
    """Return how many there are, and an iterator over batches of them: (names, embeddings, pictures, failures).

    `pipeline` is a `locdiff.pipeline.Pipeline`. pictures are functions that give a PIL image, words, or None; failures
    are [(name, reason), ...]. `tally` receives what is found and ignored.
    """
    tally = Tally() if tally is None else tally
    if len(sources) == 1 and os.path.exists(Path(sources[0]) / "embeddings.npy"):
        if texts:
            raise InputError("--text does not go with an embeddings folder")
        data = read_embeddings(sources[0], with_places=False)
        pipeline.model.config.check_encoder(data.encoder)
        return len(data), read_folder(data, batch)
    tables = [source for source in sources if ending(source) in TABLES]
    pictures = [source for source in sources if source not in tables]
    encoder, named = pipeline.model.config.encoder, {}
    if pictures and is_text_encoder(encoder):
        raise InputError(f"{pictures[0]}: this model is one of texts, by '{encoder}'; give --text or a csv of texts")
    for source in pictures:
        folder = not os.path.isfile(source) or Path(source).suffix.lower() in (".zip", ".tar")
        found, _ = find_pictures(source, tally)
        base = source.rstrip("/")
        named |= {f"{base}/{name}" if folder else source: picture for name, picture in found.items()}
    words = find_words(texts, tables, tally)
    if words and pipeline.encode_text and not is_text_encoder(encoder):
        print("words are experimental: the model has learnt from pictures, not from words", file=sys.stderr)
    tally.noun = "pictures" if named else "texts"
    of_words = read_words(words, pipeline, batch)
    of_pictures = read_pictures(list(named), list(named.values()), pipeline.encoder, batch, workers, max_pixels)
    return len(words) + len(named), itertools.chain(of_words, of_pictures if named else [])


def find_words(texts, tables, tally):
    """Return [(name, text), ...] of texts, each its own name, and of those in tables, named by their ids if any."""
    words = [(text, text) for text in texts]
    for table in tables:
        found = read_texts(table)
        tally.found += len(found.ids)
        words += [(name or text, text) for name, text in zip(found.ids, found.texts, strict=True)]
    return words


def read_words(words, pipeline, batch):
    """Yield the batches of `read_sources` for [(name, text), ...]."""
    nothing = torch.empty(0, pipeline.model.config.embed_dim)
    for start in range(0, len(words), batch):
        part = words[start : start + batch]
        names, texts = [name for name, text in part if text], [text for _, text in part if text]
        failures = [(name or "without id", EMPTY) for name, text in part if not text]
        yield names, pipeline.embed_text(texts) if texts else nothing, texts, failures


def read_folder(data, batch):
    """Yield the batches of `read_sources` for Embeddings; thumbnails and words can be shown."""
    for start in range(0, len(data), batch):
        chosen = range(start, min(start + batch, len(data)))
        embeddings, _ = data.batch(chosen)
        pictures = [data.texts and data.texts[i] for i in chosen]
        if data.encoder == blue_marble.THUMBNAIL_ENCODER:
            pixels = (255 * blue_marble.thumbnail_pictures(embeddings)).round().to(torch.uint8).numpy()
            pictures = [lambda x=x: Image.fromarray(x) for x in pixels]
        yield [data.ids[i] for i in chosen], embeddings, pictures, []


def read_pictures(names, pictures, encoder, batch, workers, max_pixels):
    """Yield the batches of `read_sources` for pictures (a list of `pictures.Picture`) of these names."""
    for index, embeddings, failures in encode_pictures(pictures, encoder, batch, workers, max_pixels=max_pixels):
        openers = [lambda i=i: read_picture(pictures[i], max_pixels) for i in index]
        yield [names[i] for i in index], embeddings, openers, [(names[i], reason) for i, reason in failures]
