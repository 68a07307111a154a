"""F = sum c_lm Y_lm on all HEALPix pixels: the separable transform, the dense product, and healpy.alm2map.

  python benchmarks/synthesis.py               two minutes on 2 cores; --device cuda for a GPU

The dense product is timed on a part of the pixels, and scaled: with the harmonics given, and with computing them, which
it must where they do not fit into memory (7 GB at nside 256).
"""

import healpy
import numpy as np
import torch
from common import options, report, seconds

from locdiff.sphere import decoder, healpix, shdd
from locdiff.sphere.healpix import HealpixTransform

BATCH, PART, L_MAX = 64, 32_768, 47


def main():
    arguments = options(__doc__)
    rows = []
    for nside in (32, 64, 128, 256):
        coeffs = torch.randn(BATCH, (L_MAX + 1) ** 2, generator=torch.Generator().manual_seed(0)).to(arguments.device)
        transform = HealpixTransform(L_MAX, nside).to(arguments.device)
        anchors = healpix.healpix_anchors(nside, device=arguments.device)
        part = anchors[:: max(1, len(anchors) // PART)]
        scale = len(anchors) / len(part)
        basis = shdd.encode(part, L_MAX).to(coeffs.dtype)
        alm = np.random.default_rng(0).normal(size=(2, healpy.Alm.getsize(L_MAX)))
        alm = alm[0] + 1j * alm[1]
        times = seconds(
            {
                "ours": lambda t=transform, c=coeffs: t.synthesis(c),
                "dense": lambda c=coeffs, b=basis: shdd.synthesis(c, b),
                "dense with harmonics": lambda c=coeffs, p=part: decoder.synthesis_at(c, p),
                "alm2map": lambda a=alm, n=nside: healpy.alm2map(a, n, lmax=L_MAX),
            },
            arguments.device,
            rounds=3,
        )
        exact = coeffs.double() @ shdd.encode(part, L_MAX).T
        error = (transform.synthesis(coeffs)[:, :: max(1, len(anchors) // PART)].double() - exact).abs().max()
        rows.append({
            "nside": nside, "pixels": len(anchors), "ours, ms a map": 1e3 * times["ours"] / BATCH,
            "dense / ours": times["dense"] * scale / times["ours"],
            "dense with harmonics / ours": times["dense with harmonics"] * scale / times["ours"],
            "ours / healpy.alm2map": times["ours"] / BATCH / times["alm2map"],
            "largest error / largest value": (error / exact.abs().max()).item(),
        })  # fmt: skip
    note = f"l_max {L_MAX}, float32, {BATCH} maps at a time; alm2map one at a time, in float64, on the CPU."
    report("synthesis", rows, arguments, note)


if __name__ == "__main__":
    main()
