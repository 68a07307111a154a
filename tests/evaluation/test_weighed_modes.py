"""Modes of a density, weighed by the votes of the nearest pictures of a gallery."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.embeddings import embedded, queries_for, scattered
from support.strategies import seeds

from locdiff.evaluation.retrieval import WEIGHTS, nearest, weigh_modes
from locdiff.sphere.coordinates import from_unit_vector, great_circle_km, to_unit_vector
from locdiff.sphere.healpix import healpix_anchors


@given(seed=seeds, k=st.integers(1, 4), pictures_there=st.integers(1, 130))
def test_modes_are_weighed_by_the_votes_of_the_nearest_pictures(seed, k, pictures_there):
    """By its formula, in numpy, a picture at a time; the places are close together, so that votes overlap."""
    middle = torch.tensor([[10.0, 179.5]])
    around = middle + scattered(pictures_there, seed=seed % 1000) / 90
    places = embedded(from_unit_vector(to_unit_vector(around)), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    queries = queries_for(3, seed=seed)
    modes = from_unit_vector(to_unit_vector(middle.double() + 2 * torch.rand(3, k, 2, generator=generator)))
    probability = torch.rand(3, k, generator=generator).softmax(dim=-1)
    found = weigh_modes(queries, places, modes, probability, (0.0, 3.0, 300.0), progress=False)
    cosine, position = nearest(queries, places, 100, progress=False)
    for w, weight in enumerate((0.0, 3.0, 300.0)):
        for i in range(3):
            share = np.exp(weight * (cosine[i] - cosine[i, 0]).double().numpy())
            distance = great_circle_km(modes[i][:, None], torch.from_numpy(places.lat_lon)[position[i]]).numpy()
            votes = (np.exp(-(distance**2) / 2 / 50**2) * share / share.sum()).sum(axis=-1)
            score = probability[i].double().numpy() * (1e-3 + votes)
            chosen = (modes[i] == found[w, i]).all(dim=-1).numpy()
            assert chosen.any() and score[chosen].max() >= score.max() * (1 - 1e-4)


def test_without_pictures_nearby_the_most_probable_mode_stays():
    modes = healpix_anchors(1)[:4].view(1, 4, 2).expand(3, -1, -1)
    probability = torch.tensor([[0.2, 0.5, 0.3, 0.0]] * 3)
    antipodes = embedded(from_unit_vector(-to_unit_vector(healpix_anchors(1)[:4])))
    for places in (antipodes, antipodes.subset(np.array([], dtype=int))):
        found = weigh_modes(queries_for(3), places, modes, probability, (1.0,), progress=False)
        torch.testing.assert_close(found, modes[None, :, 1], rtol=0, atol=0)
    on_another = embedded(healpix_anchors(1)[2:4])  # on the last, of no probability, too
    assert (weigh_modes(queries_for(3), on_another, modes, probability, (0.0,), progress=False) == modes[0, 2]).all()
    none = weigh_modes(queries_for(0), on_another, modes[:0], probability[:0], progress=False)
    assert none.shape == (len(WEIGHTS) - 1, 0, 2)
