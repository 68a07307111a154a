"""From pictures or words to predictions: an encoder and a model.

>>> pipeline = Pipeline.from_pretrained("runs/quickstart")                   # doctest: +SKIP
>>> pipeline.predict(["view.png"], top_k=5)[0].places                        # doctest: +SKIP
>>> Pipeline.from_pretrained("runs/names").predict(["San José"])[0].places   # doctest: +SKIP
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from locdiff.data.encoders import Encoder, TextEncoder, encoder_of, is_text_encoder
from locdiff.data.encoding import embed_pictures
from locdiff.errors import InputError
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.model.posterior import LocationPosterior
from locdiff.sphere.coordinates import geographic_center


@dataclass(frozen=True)
class Prediction:
    """Where one picture was taken, or the place of one text, most probable locations first; degrees, km and km^2."""

    places: list[list[float]]  # [lat, lon] of each of the most probable modes of the density
    probabilities: list[float]  # that the picture was taken in the basin of the mode
    within: dict[
        int, tuple[float, float, float]
    ]  # {k: (lat, lon, probability)}: the location with the most probability within k km of it
    radius_50_km: float  # around the first location
    radius_90_km: float
    area_50_km2: float  # of the smallest region that holds 50 %
    area_90_km2: float
    samples: list[list[float]]  # [lat, lon] of locations sampled from the posterior
    center: list[float]  # the paper's prediction, the geographic center of the samples; NaN where there is none
    nside: int  # of the HEALPix pixels (RING order) of the regions
    pixels_50: np.ndarray = field(compare=False, repr=False)  # of the smallest region that holds 50 %
    pixels_90: np.ndarray = field(compare=False, repr=False)


def summarize(
    posterior: LocationPosterior, samples: int = 16, top_k: int = 1, seed: int = 0, first: int = 0
) -> list[Prediction]:
    """Return the Prediction of each picture of a posterior, with at most `top_k` locations and `samples` samples.

    Samples follow from the seed and from a picture's position, `first` being that of the first. Zero makes none.
    """
    drawn = posterior.sample(samples, seed, first) if samples else torch.empty(len(posterior), 0, 2)
    places, probability = posterior.modes(top_k)
    centers, within = geographic_center(drawn), posterior.best_within()
    radii, (regions, areas) = posterior.credible_radius(places[:, 0]), posterior.credible_regions()
    return [
        Prediction(
            places=places[i][probability[i] > 0].tolist(),
            probabilities=probability[i][probability[i] > 0].tolist(),
            within=_rising({k: (*place[i].tolist(), mass[i].item()) for k, (place, mass) in within.items()}),
            radius_50_km=radii[i, 0].item(),
            radius_90_km=radii[i, 1].item(),
            area_50_km2=areas[i, 0].item(),
            area_90_km2=areas[i, 1].item(),
            samples=drawn[i].tolist(),
            center=centers[i].tolist(),
            nside=posterior.grid.nside,
            pixels_50=regions[i, 0].nonzero()[:, 0].numpy(),
            pixels_90=regions[i, 1].nonzero()[:, 0].numpy(),
        )
        for i in range(len(posterior))
    ]


def _rising(within: dict[int, tuple[float, float, float]]) -> dict[int, tuple[float, float, float]]:
    """Return `within`, but where a larger radius has less probability, with what the smaller radius has.

    The location of the smaller radius has at least that much within the larger one, too; the series says less where it
    is smoothed.
    """
    kept, best = {}, (0.0, 0.0, -1.0)
    for k, one in within.items():
        best = one if one[2] >= best[2] else best
        kept[k] = best
    return kept


class Pipeline:
    """A model and the encoder that its embeddings are by, which is made when a picture first needs it.

    `weights` is the file of the encoder's weights, if the training embeddings were made from one.
    """

    def __init__(self, model: LocDiffusion, weights: str | None = None):
        self.model, self.weights = model, weights

    @classmethod
    def from_pretrained(cls, name: Path | str, device=None, weights: str | None = None, **options) -> "Pipeline":
        """Return the Pipeline of the model in a run folder, or of OWNER/NAME on the Hugging Face Hub.

        The `options` are those of `LocDiffusion.from_pretrained`. Raises InputError if there is no such model.
        """
        return cls(LocDiffusion.from_pretrained(name, device, **options), weights)

    @cached_property
    def encoder(self) -> Encoder | TextEncoder:
        """The model's encoder. Raises InputError if the program does not know it, or if its weights cannot be had."""
        return encoder_of(self.model.config, self.weights, self.model.device)

    @property
    def encode_text(self) -> Callable[[list[str]], Tensor]:
        """The encoder's function of words. Raises InputError if it sees pictures only."""
        found = getattr(self.encoder, "encode_text", None)
        if found is None:
            name = self.model.config.encoder
            raise InputError(
                f"words need a model trained on CLIP embeddings or on texts; this one was trained on '{name}'"
            )
        return found

    def embed(self, pictures: Sequence[Path | str]) -> Tensor:
        """Return the embeddings of picture files, or of words where the model is one of words, (n, embed_dim).

        Raises InputError for a file that is no picture.
        """
        if is_text_encoder(self.model.config.encoder):
            return self.embed_text(list(pictures))
        return embed_pictures(pictures, self.encoder).view(-1, self.model.config.embed_dim)

    def embed_images(self, images: Sequence[Any]) -> Tensor:
        """Return the embeddings of pictures in memory, PIL images in RGB: (n, embed_dim).

        Raises InputError if the encoder is of words alone.
        """
        if is_text_encoder(self.model.config.encoder):
            raise InputError(f"the model is one of words, by '{self.model.config.encoder}'; give words, no pictures")
        encoder: Any = self.encoder
        return encoder.encode(torch.stack([encoder.prepare(image) for image in images]))

    def embed_text(self, texts: Sequence[Any]) -> Tensor:
        """Return the embeddings of words, (n, embed_dim).

        Raises InputError if the encoder sees pictures only, or for what is no text or an empty one.
        """
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"{text!r} is no text to locate; give words as a str")
        return self.encode_text(list(texts)).view(-1, self.model.config.embed_dim)

    def predict(
        self,
        pictures: Sequence[Path | str] | Path | str | Tensor | np.ndarray,
        samples: int = 16,
        top_k: int = 1,
        seed: int = 0,
    ) -> list[Prediction]:
        """Return the Prediction of each picture: of picture files, or of embeddings (n, embed_dim).

        Where the model is one of words, such as of place names, `pictures` are texts.

        See `summarize` for the options. Raises InputError for pictures or embeddings that cannot be used.
        """
        if isinstance(pictures, str | Path):
            pictures = [pictures]
        if isinstance(pictures, np.ndarray):
            embeddings = torch.from_numpy(np.array(pictures))  # a copy: the array may be read-only
        else:
            embeddings = pictures if isinstance(pictures, Tensor) else self.embed(pictures)
        return [one for _, chunk in self.stream(embeddings, samples, top_k, seed) for one in chunk]

    def stream(
        self, embeddings: Tensor, samples: int = 16, top_k: int = 1, seed: int = 0, first: int = 0
    ) -> Iterator[tuple[LocationPosterior, list[Prediction]]]:
        """Yield the posterior and the Predictions of as many pictures at a time as fit into the memory budget."""
        for chunk in embeddings.split(self.model.posterior_batch_size):
            posterior = self.model.posterior(chunk)
            with torch.no_grad():
                predictions = summarize(posterior, samples, top_k, seed, first)
            first += len(chunk)
            yield posterior, predictions
