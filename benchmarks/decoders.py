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
    u, v = np.random.default_rng(seed).uniform(size=(2, n))
    return torch.from_numpy(np.stack([np.degrees(np.arcsin(2 * u - 1)), 360 * v - 180], axis=-1))


def main():
    arguments = options(__doc__)
    part, rows = random_places(PART, 1).to(arguments.device), []
    for l_max, n in ((15, 4000), (23, 4000), (31, 4000), (47, 4000), (95, 2000), (127, 2000)):
        truth, noise = random_places(n, l_max), torch.Generator().manual_seed(l_max)
        coeffs = shdd.encode(truth, l_max).float()
        coeffs = (coeffs + S * torch.randn(coeffs.shape, generator=noise)).to(arguments.device)
        degree = np.arange(l_max + 1)
        curvature = (degree * (degree + 1) / 2 * (2 * degree + 1)).sum() / (4 * math.pi)
        bound = EARTH_RADIUS_KM * S * math.sqrt(math.pi / 2 / curvature)
        basis = shdd.encode(part, l_max).float()
        few = coeffs[:VECTORS]
        anchors = healpix.healpix_anchors(64, device=arguments.device)
        transform, alone = (
            healpix.healpix_transform(l_max, 64, device=arguments.device),
            decoder.neighbourhoods(anchors, 0),
        )
        decoders = {
            "exact": lambda c=coeffs[:512]: decoder.exact_mode(c),
            "HEALPix": lambda c=coeffs[:512], t=transform, a=anchors, m=alone: decoder.mode_seek(t.synthesis, c, a, m),
            "dense": lambda c=few, b=basis: shdd.synthesis(c, b).argmax(dim=-1),
            "dense with harmonics": lambda c=few: decoder.evaluate_at(c, part).argmax(dim=-1),
        }
        times = seconds(decoders, arguments.device, rounds=2)
        per_vector = {"exact": times["exact"] / 512, "HEALPix": times["HEALPix"] / 512}
        per_vector |= {k: times[k] * ANCHORS / PART / VECTORS for k in ("dense", "dense with harmonics")}
        km = {
            "exact": great_circle_km(truth, decoder.exact_mode(coeffs)[0].double().cpu()).mean().item(),
            "HEALPix": great_circle_km(
                truth[:512], decoders["HEALPix"]()[0].double().cpu()
            ).mean().item(),
        }  # fmt: skip
        rows.append({
            "l_max": l_max, "bound, km": bound, "exact mode, km": km["exact"],
            "exact mode / bound": km["exact"] / bound,
            "HEALPix nside 64, km": km["HEALPix"],
            "exact mode, ms": 1e3 * per_vector["exact"], "HEALPix nside 64, ms": 1e3 * per_vector["HEALPix"],
            "dense argmax of a million / exact": per_vector["dense"] / per_vector["exact"],
            "the same with harmonics / exact": per_vector["dense with harmonics"] / per_vector["exact"],
        })  # fmt: skip
    report("decoders", rows, arguments, "Table 7 of the paper gives 5.3 km for SHDD at l_max 31.")


if __name__ == "__main__":
    main()
