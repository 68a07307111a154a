"""Answers and servers of the page to try a model, with models that are not trained."""

import contextlib
import threading

import torch
import uvicorn

from locdiff.pipeline import Pipeline
from locdiff.web.answers import Answers
from locdiff.web.server import make_app
from support.models import seeing

SMALL = {"decoder_nside": 16, "quadrature_nside": 16}


class BothEncoder:
    """An encoder of pictures and words, as CLIP is one: the mean color, and how many letters there are."""

    name, dim, about = "open_clip:both", 5, {}

    @staticmethod
    def prepare(item):
        return torch.tensor(item.resize((1, 1)).getpixel((0, 0)), dtype=torch.float32)

    @staticmethod
    def encode(batch):
        return torch.nn.functional.pad(batch / 255, (0, 2))

    @staticmethod
    def encode_text(texts):
        return torch.tensor([[len(text), 1.0, 0, 0, 0] for text in texts])


def pipeline(kind):
    """Return a Pipeline of "pictures", of "words", or of "both"."""
    encoder, dim = {"pictures": ("thumbnail-16", 768), "words": ("ngrams:64", 64), "both": ("open_clip:both", 5)}[kind]
    made = Pipeline(seeing(0.5, encoder=encoder, embed_dim=dim, **SMALL))
    if kind == "both":
        made.__dict__["encoder"] = BothEncoder()
    return made


@contextlib.contextmanager
def serving(kind):
    """Serve the page of `pipeline(kind)` from a thread; yield its address."""
    from locdiff.demo import address, listen

    with listen("127.0.0.1", 0) as sock:
        config = uvicorn.Config(
            make_app(Answers(pipeline(kind)), kind), log_level="warning", ws="none", lifespan="off", access_log=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            yield address(sock)
        finally:
            server.should_exit = True
            thread.join()
