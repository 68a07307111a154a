"""Runs of paper_figures/make_all.py, and what they leave."""

import csv

import make_all
import numpy as np
from context import Context


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
