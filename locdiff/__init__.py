"""LocDiffusion in PyTorch: a picture goes in, a probability over the whole Earth comes out.

The mathematics (coordinates, spherical_harmonics, shdd, decoder, diffusion) has the names, the conventions and, to
floating-point tolerance, the values of the NumPy package `reference`, whose docstrings hold the equations. Tensors keep
their dtype and device. What a user runs: `python -m locdiff.train`, `.evaluate`, `.predict`.
"""

from locdiff.model import LocDiffusion

__all__ = ["LocDiffusion", "__version__"]
__version__ = "0.1.0"
