"""Table 7: how far the decoded places drift when noise is added to their encodings."""

import numpy as np
import table_6
import torch
from artefact import Claim
from figure_4a import cramer_rao_km
from methods.location_encoders import ENCODERS
from methods.place_decoder import drift_km
from report import markdown_table, random_places, write_csv
from table_6 import SHDD

from locdiff.sphere import decoder

TITLE = "drift under noise of variance 0.01"
DATA = "places drawn uniformly on the sphere; the learned decoders of Table 6, and SHDD by its exact mode."
SCALES = table_6.SCALES
PLACES = {"smoke": 500, "cpu": 2000, "full": 2000, "paper": 2000}
VARIANCE = 0.01
DEGREES = (15, 23, 31, 47)
PAPER = {"rbf": 102.4, "Sphere2Vec-sphereM": 89.1, SHDD: 5.3}


def compute(context):
    """Return mean drifts in km, (rows, 3): without noise, with noise in the encodings' own units, and with noise in
    units of their root mean square; the rows' names."""
    random = torch.Generator().manual_seed(0)
    places, rows, drifts = random_places(PLACES[context.scale], random), {}, []
    for name in ENCODERS:
        if name != SHDD:
            encoder, learned = table_6.learned_decoder(context, name)
            rows[name] = encoder, learned, learned.scale.item()
    for degree in DEGREES:
        encoder = ENCODERS[SHDD](0, l_max=degree)
        rows[f"{SHDD}, L = {degree}"] = encoder, lambda x: decoder.exact_mode(x)[0], (4 * np.pi) ** -0.5
    for encoder, decode, rms in rows.values():
        variances = (0.0, VARIANCE, VARIANCE * rms**2)
        drifts.append([drift_km(encoder, decode, places, v, random).mean().item() for v in variances])
    return {"names": list(rows), "drifts": np.array(drifts)}


def key_numbers(result):
    """Return SHDD's drifts, which depend on no training."""
    rows = zip(result["names"].tolist(), result["drifts"][:, 1], strict=True)
    return {name: (drift, 0.05 * drift) for name, drift in rows if name.startswith(SHDD)}


def draw(result, folder):
    """Write table_7.csv; return Markdown and claims."""
    names, drifts, rows = result["names"].tolist(), result["drifts"], []
    for name, own in zip(names, drifts, strict=True):
        degree = int(name.split("= ")[1]) if name.startswith(SHDD) else 0
        bound = f"{cramer_rao_km(degree):.1f}" if degree else ""
        published = PAPER[SHDD] if degree == 31 else PAPER.get(name, "")
        rows.append([name, *(f"{drift:.1f}" for drift in own), bound, published])
    header = ["no noise, km", "noise, own units, km", "noise, units of the rms, km", "bound, km", "paper, km"]
    header = ["encoder", *header]
    write_csv(folder / "table_7.csv", header, rows)
    text = (
        "Mean great-circle distances between places and what is decoded. The paper does not say in which units the "
        "noise has variance 0.01, nor at which L its 5.3 km are; L = 31 gives as much in units of the coefficients. "
        "The bound is that of Cramer and Rao for those units."
    )
    return f"{text}\n\n{markdown_table(header, rows)}", claims(names, drifts)


def claims(names, drifts):
    """Return the claims about the drifts (rows, 3): that SHDD's is less, in either unit, and that noise causes it."""
    own = drifts[names.index(f"{SHDD}, L = 31")]
    others = {name: drifts[names.index(name)] for name in PAPER if name != SHDD}
    still = ", ".join(f"{name} {drift[0]:.0f}" for name, drift in others.items())
    return [
        Claim(
            f"SHDD at L = 31 drifts less than {name}",
            f"{PAPER[SHDD]} against {PAPER[name]} km",
            f"{own[1]:.1f} against {drift[1]:.0f} km in the encodings' own units, {own[2]:.1f} against "
            f"{drift[2]:.0f} in those of the root mean square",
            bool((own[1:] < drift[1:]).all()),
        )
        for name, drift in others.items()
    ] + [
        Claim(
            "noise is what makes the others drift: without it they are not half as far off",
            "it is one reason, the decoder's own error the other",
            f"without noise the learned decoders err by {still} km",
            not all(drift[0] > drift[1] / 2 for drift in others.values()),
        )
    ]
