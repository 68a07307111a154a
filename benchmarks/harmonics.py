"""Spherical harmonics at 49,152 points: speed, and the largest error against the float64 reference.

  python benchmarks/harmonics.py               about a minute on 2 cores; --device cuda for a GPU

Beside ours stand sphericart-torch and e3nn where they are installed (pip install sphericart-torch e3nn), and scipy,
which is timed on fewer points. Times are per point; "first degree wrong" is the lowest l with an error above 1e-3.
"""

import numpy as np
import torch
from common import options, report, seconds
from scipy.special import sph_harm_y_all

from locdiff.sphere.spherical_harmonics import real_spherical_harmonics as ours
from reference.spherical_harmonics import real_spherical_harmonics as reference

POINTS, CHECKED, SCIPY_POINTS = 49_152, 2_000, 2_048


def scipys(theta, phi, l_max):
    """Return (D, n) real harmonics from scipy's complex ones, which carry the Condon-Shortley phase."""
    complex_ones = sph_harm_y_all(l_max, l_max, theta, phi)
    rows = []
    for l in range(l_max + 1):
        for m in range(-l, l + 1):
            y = complex_ones[l, abs(m)] * (-1) ** m * (2**0.5 if m else 1)
            rows.append(y.imag if m < 0 else y.real)
    return np.stack(rows)


def contenders(l_max, theta, phi, xyz):
    """Return {name: function that gives (n, D)} on the given float64 points."""
    found = {}
    for dtype in (torch.float32, torch.float64):
        name, angles, vectors = str(dtype).removeprefix("torch."), (theta.to(dtype), phi.to(dtype)), xyz.to(dtype)
        found[f"ours, {name}"] = lambda angles=angles: ours(*angles, l_max)
        try:
            import sphericart.torch

            calculator = sphericart.torch.SphericalHarmonics(l_max)
            found[f"sphericart, {name}"] = lambda c=calculator, v=vectors: c.compute(v)
        except ImportError:
            pass
        if l_max <= 11:  # e3nn's limit
            try:
                from e3nn import o3

                turned = vectors[:, [1, 2, 0]]  # its polar axis is y
                degrees = list(range(l_max + 1))
                found[f"e3nn, {name}"] = lambda v=turned, d=degrees: o3.spherical_harmonics(d, v, True, "integral")
            except ImportError:
                pass
    return found


def errors_by_degree(values, exact, l_max):
    """Return the largest error of each degree, (l_max + 1); infinite where the values are not finite."""
    error = np.abs(np.nan_to_num(values.double().cpu().numpy(), nan=np.inf, posinf=np.inf, neginf=np.inf) - exact)
    return np.array([error[:, l * l : (l + 1) ** 2].max() for l in range(l_max + 1)])


def main():
    arguments = options(__doc__)
    xyz = torch.randn(POINTS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    xyz = torch.nn.functional.normalize(xyz, dim=-1).to(arguments.device)
    theta, phi = torch.acos(xyz[:, 2]), torch.atan2(xyz[:, 1], xyz[:, 0])
    rows = []
    for l_max in (8, 23, 47):
        exact = reference(theta[:CHECKED].cpu().numpy(), phi[:CHECKED].cpu().numpy(), l_max)
        functions = contenders(l_max, theta, phi, xyz)
        times = seconds(functions, arguments.device)
        few = theta[:SCIPY_POINTS].cpu().numpy(), phi[:SCIPY_POINTS].cpu().numpy()
        functions["scipy, float64"] = lambda few=few, l_max=l_max: torch.from_numpy(scipys(*few, l_max).T)
        few_time = seconds({"scipy": functions["scipy, float64"]}, rounds=1)["scipy"]
        times["scipy, float64"] = few_time * POINTS / SCIPY_POINTS
        for name, time in times.items():
            error = errors_by_degree(functions[name]()[:CHECKED], exact, l_max)
            wrong, broken = np.flatnonzero(error > 1e-3), np.flatnonzero(np.isinf(error))
            rows.append({
                "l_max": l_max, "implementation": name, "microseconds a point": 1e6 * time / POINTS,
                "time / ours, float32": time / times["ours, float32"],
                "largest error": float(error.max()),
                "first degree wrong": int(wrong[0]) if len(wrong) else "none",
                "first degree not finite": int(broken[0]) if len(broken) else "none",
            })  # fmt: skip
    report("harmonics", rows, arguments)


if __name__ == "__main__":
    main()
