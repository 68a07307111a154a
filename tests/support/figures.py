"""Runs of paper_figures/make_all.py, and what they leave."""

import csv
import dataclasses
from pathlib import Path

import data_sets
import make_all
import numpy as np
from context import Context

from locdiff.data import place_names
from locdiff.data.place_names import PlaceNames


def make(folder, *names):
    """Make these artefacts at their smallest scale; return the output folder."""
    make_all.main(["--scale", "smoke", "--im2gps3k", "", "--only", *names, "--out", str(folder)])
    return folder


def numbers(folder, name):
    """Return the arrays that an artefact computed."""
    with np.load(folder / f"{name}.npz") as file:
        return dict(file)


def csv_rows(path):
    """Return the lines of a csv file as dicts."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def smoke_context(folder, data="", im2gps3k=""):
    """Return a Context at scale smoke that keeps its pieces in `folder`."""
    return Context("smoke", data, im2gps3k, folder / "pieces")


def is_png(path):
    """Return whether a file is a png."""
    return path.read_bytes()[:4] == b"\x89PNG"


def holds(claims):
    """Return which claims hold."""
    return [claim.holds for claim in claims]


def with_names(patch, count=440):
    """Give scale smoke place names by a MonkeyPatch: `count` made-up ones, of which 40 are held out. Return their
    Data."""
    rng = np.random.default_rng(5)
    syllables = ["ka", "mo", "sen", "tri", "bur", "vil", "o", "lan", "des", "pe"]
    names = ["".join(rng.choice(syllables, 4)) for _ in range(count)]
    lat_lon = rng.uniform([40, 0], [60, 40], (count, 2)).round(5).tolist()
    patch.setattr(place_names, "read_geonames", lambda: (list(range(count)), names, lat_lon))
    scale = dataclasses.replace(data_sets.SCALES["smoke"], names=PlaceNames("ngrams:64", test_names=40))
    patch.setitem(data_sets.SCALES, "smoke", scale)
    return data_sets.named(smoke_context(Path()))
