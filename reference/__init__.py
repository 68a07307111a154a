"""The equations of LocDiffusion in NumPy float64, written to be checked against the paper, not to be fast.

Read the modules in this order:

1. `coordinates` defines places, angles, unit vectors, distances and the geographic centre.
2. `spherical_harmonics` defines the real basis Y_lm, by a stable recurrence and by the paper's explicit sum.
3. `shdd` defines the encoding of a place, the densities q_e, their divergences and likelihoods.
4. `decoder` defines the paper's two decoders from coefficients to a place, and the HEALPix anchors.
5. `diffusion` defines noise schedules, forward and reverse steps, the samplers and the sampling loop.
6. `zoom` defines the conformal zoom about a centre and its Jacobian.
7. `hierarchy` defines the mixture over refinement levels, whose densities are finer than one encoding resolves.

Conventions, used everywhere and never varied:

- A place is `(lat, lon)` in degrees, in that order, on the last axis; lon in [-180, 180). Inside the mathematics it is
  the colatitude `theta` in [0, pi] and the azimuth `phi` in [0, 2 pi): Paris (48.9, 2.4) is theta 0.717, phi 0.042.
- Real orthonormal spherical harmonics without the Condon-Shortley phase; Y_lm has index k = l*l + l + m, in the order
  (0,0), (1,-1), (1,0), (1,1), (2,-2), ..., and (l_max + 1)**2 of them reach degree l_max (the paper's L).
- `coeffs` are the SHDD coefficients of a function on the sphere. The diffusion runs on x = sqrt(4 pi) * coeffs, whose
  mean square per dimension is one.
- Kullback-Leibler divergences are in nats, distances in km on a sphere of radius 6371.0088 km, HEALPix in RING order.

Equation, section and table numbers are those of the paper's submission to ICLR 2025. Where an equation here differs
from the paper's, the docstring says "Paper: ... Here: ...". What the paper does not have is marked "Not in the paper".
"""
