"""Decoding noisy encodings: mean error against the Cramer-Rao bound, and time a vector.

  python benchmarks/decoders.py                four minutes on 2 cores; --device cuda for a GPU

Gaussian noise of variance 0.01 is added to every coefficient, as in Table 7 of the paper. At the
Cramer-Rao bound Gaussian errors have the mean R s sqrt(pi/2) / sqrt(sum_l l (l+1)/2 (2l+1)/(4 pi)) km. The dense argmax
runs over one million anchors (timed on a part of them, and scaled), for 64 vectors at a time: with the harmonics given,
as if they fitted into memory, and with computing them in pieces.
"""

import math

import numpy as np
import torch
from common import options, report, seconds

from locdiff.sphere import decoder, healpix, shdd
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km

S, ANCHORS, PART, VECTORS = 0.1, 1_000_000, 20_000, 64


def random_places(n, seed):
    """Return n random locations, uniform on the sphere, (n, 2) degrees."""
    u, v = np.random.default_rng(seed).uniform(size=(2, n))
    return torch.from_numpy(np.stack([np.degrees(np.arcsin(2 * u - 1)), 360 * v - 180], axis=-1))


def contenders(l_max, coeffs, part, device):
    """Return {name: decoder of a few of the coeffs (n, D)}; the dense ones run over the anchors `part` (PART, 2)."""
    basis, few, more = shdd.encode(part, l_max).float(), coeffs[:VECTORS], coeffs[:512]
    anchors = healpix.healpix_anchors(64, device=device)
    transform, alone = healpix.healpix_transform(l_max, 64, device=device), decoder.neighborhoods(anchors, 0)
    return {
        "exact": lambda: decoder.exact_mode(more),
        "HEALPix": lambda: decoder.mode_seek(transform.synthesis, more, anchors, alone),
        "dense": lambda: shdd.synthesis(few, basis).argmax(dim=-1),
        "dense with harmonics": lambda: decoder.synthesis_at(few, part).argmax(dim=-1),
    }


def measure(l_max, n, part, device):
    """Return a row of the table: errors and times at a degree, of n noisy encodings."""
    truth, noise = random_places(n, l_max), torch.Generator().manual_seed(l_max)
    coeffs = shdd.encode(truth, l_max).float()
    coeffs = (coeffs + S * torch.randn(coeffs.shape, generator=noise)).to(device)
    degree = np.arange(l_max + 1)
    curvature = (degree * (degree + 1) / 2 * (2 * degree + 1)).sum() / (4 * math.pi)
    bound = EARTH_RADIUS_KM * S * math.sqrt(math.pi / 2 / curvature)
    decoders = contenders(l_max, coeffs, part, device)
    times = seconds(decoders, device, rounds=2)
    exact = times["exact"] / 512
    dense = {name: times[name] * ANCHORS / PART / VECTORS for name in ("dense", "dense with harmonics")}
    exact_km = great_circle_km(truth, decoder.exact_mode(coeffs)[0].double().cpu()).mean().item()
    healpix_km = great_circle_km(truth[:512], decoders["HEALPix"]()[0].double().cpu()).mean().item()
    return {
        "l_max": l_max, "bound, km": bound, "exact mode, km": exact_km, "exact mode / bound": exact_km / bound,
        "HEALPix nside 64, km": healpix_km, "exact mode, ms": 1e3 * exact,
        "HEALPix nside 64, ms": 1e3 * times["HEALPix"] / 512,
        "dense argmax of a million / exact": dense["dense"] / exact,
        "the same with harmonics / exact": dense["dense with harmonics"] / exact,
    }  # fmt: skip


def main():
    arguments = options(__doc__)
    part = random_places(PART, 1).to(arguments.device)
    sizes = (15, 4000), (23, 4000), (31, 4000), (47, 4000), (95, 2000), (127, 2000)
    rows = [measure(l_max, n, part, arguments.device) for l_max, n in sizes]
    report("decoders", rows, arguments, "Table 7 of the paper gives 5.3 km for SHDD at l_max 31.")


if __name__ == "__main__":
    main()
