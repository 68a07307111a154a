"""LocDiffusion in PyTorch: a picture goes in, a probability over the whole Earth comes out.

The mathematics in `sphere` and `model.diffusion` has the names, the conventions and, to floating-point tolerance, the
values of the NumPy package `reference`, whose docstrings hold the equations. Tensors keep their dtype and device. A
user runs `python -m locdiff.train`, `.evaluate`, `.predict`, `.embed`.
"""

from importlib import metadata

from locdiff.errors import InputError
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.pipeline import Pipeline, Prediction

__all__ = ["InputError", "LocDiffusion", "Pipeline", "Prediction", "__version__"]
try:
    __version__ = metadata.version("locdiffusion")
except metadata.PackageNotFoundError:  # a checkout on the path that is not installed
    __version__ = "not installed"
