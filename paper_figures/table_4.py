"""Table 4: how many places of a gallery lie close to the test places."""

import numpy as np
import report
import torch
from artefact import Claim
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from locdiff.data.geoclip import gallery_places
from locdiff.data.places import read_places
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, to_unit_vector

TITLE = "share of the test places that have so many gallery places within 1 km and 25 km"
DATA = (
    "GeoCLIP's gallery of 100,000 places of MP-16 (package geoclip), HEALPix grids, and the test places of "
    "im2gps3k_places365.csv. Nothing is random but the turns of the grid."
)
NEEDS = "im2gps3k"
COUNTS = (1, 10, 50, 100)
RADII_KM = (1, 25)
GRIDS = (21_000, 100_000, 500_000, 1_000_000)
TURNED = 100_000  # the grid whose size fits the paper's 38.9 %: so much of the Earth lies within 25 km of its places
PAPER = report.PAPER["table_4"]


def compute(context, turns=200, seed=0):
    """Return the table's cells in per cent for every gallery, (galleries, 8); how large the galleries are; and the
    cells of the grid of TURNED places turned at random, (turns, 8)."""
    xyz = to_unit_vector(torch.from_numpy(read_places(context.im2gps3k).lat_lon)).numpy()
    galleries = [gallery_places(name) for name in ("mp16", *(f"grid:{size}" for size in GRIDS))]
    trees = [cKDTree(to_unit_vector(places).numpy()) for places in galleries]
    grid, rotations = trees[1 + GRIDS.index(TURNED)], Rotation.random(turns, rng=np.random.default_rng(seed))
    return {
        "places": len(xyz),
        "sizes": [len(places) for places in galleries],
        "cells": np.array([cells(tree, xyz) for tree in trees]),
        "turned": np.array([cells(grid, rotation.apply(xyz)) for rotation in rotations]),
    }


def cells(tree, xyz):
    """Return the per cent of the places xyz (n, 3) that have so many gallery places around them: within 1 km at least 1
    and more than 10, 50, 100; within 25 km at least 1, 10, 50, 100, (8,). These are the counts that give the paper's
    numbers."""
    found = []
    for radius in RADII_KM:
        around = tree.query_ball_point(xyz, 2 * np.sin(radius / EARTH_RADIUS_KM / 2), return_length=True)
        found += [100 * np.mean(around > c if radius == 1 and c > 1 else around >= c) for c in COUNTS]
    return np.array(found)


def key_numbers(result):
    """Return the row of MP16."""
    return {str(i): (cell, 0.005) for i, cell in enumerate(result["cells"][0])}


def draw(result, folder):
    """Write table_4.csv; return Markdown and claims."""
    (mp16, *grids), size = zip(result["sizes"], result["cells"], strict=True), result["sizes"][1 + GRIDS.index(TURNED)]
    mean, (low, high) = result["turned"].mean(axis=0), np.percentile(result["turned"], [2.5, 97.5], axis=0)
    rows = [
        ("MP16 in the paper", "100 k", *PAPER["MP16"]),
        ("MP16", mp16[0], *mp16[1]),
        ("grid in the paper", "not given", *PAPER["grid"]),
        *(("grid", places, *own) for places, own in grids),
        (f"grid, mean of {len(result['turned'])} random turns", size, *mean),
    ]
    counts = [f"within {r} km: {'>' if r == 1 and c > 1 else '>='} {c}" for r in RADII_KM for c in COUNTS]
    header = ["gallery", "places", *counts]
    report.write_csv(folder / "table_4.csv", header, rows)
    table = report.markdown_table(header, [[*row[:2], *(f"{cell:.1f}" for cell in row[2:])] for row in rows])
    share = 100 * size * np.sin(RADII_KM[1] / EARTH_RADIUS_KM / 2) ** 2
    text = (
        f"Per cent of the {int(result['places']):,} test places. The caps of 25 km around the places of a grid of "
        f"{size:,} cover {share:.1f} % of the Earth, where they do not overlap; the test places, which lie close "
        f"together, are hit by chance: between {low[4]:.1f} and {high[4]:.1f} % in 95 % of the turns."
    )
    return f"{table}\n\n{text}", claims(mp16[1], size, mean[4], low[4], high[4])


def claims(mp16, size, mean, low, high):
    """Return the claims about the row of MP16 (8,), and about a grid of that size: the share of test places with a
    place within 25 km, its mean over the turns and the ends of its 95 % interval."""
    share = PAPER["grid"][4]
    return [
        Claim(
            "the test places have so many places of MP16's gallery close to them",
            "the row of MP16",
            f"it differs by at most {np.abs(mp16 - PAPER['MP16']).max():.2f}",
            bool(np.abs(mp16 - PAPER["MP16"]).max() < 0.1),
        ),
        Claim(
            f"{share} % of them have a place of an even grid within 25 km",
            f"{share} %; the size of the grid is not given",
            f"{report.with_interval(mean, low, high)} % with a grid of {size:,} places, turned at random",
            bool(low <= share <= high),
        ),
    ]
