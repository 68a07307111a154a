"""From embeddings to predictions: every field is read off the posterior."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from support.models import seeing, tiny, with_prior, zoomed

from locdiff.errors import InputError
from locdiff.pipeline import Pipeline, summarize
from locdiff.sphere import pixels, shdd
from locdiff.sphere.coordinates import geographic_center, great_circle_km


def test_predictions_come_from_the_density():
    """Two modes at known locations: their places, the probabilities those of the density, radii and areas too."""
    here, there = torch.tensor([[48.9, 2.4]]), torch.tensor([[-25.0, 135.0]])
    model = with_prior(2.2 * shdd.encode(here, 7).float()[0] + 2 * shdd.encode(there, 7).float()[0])
    first, second = Pipeline(model).predict(torch.zeros(2, 5), top_k=3)
    assert first.places == second.places and len(first.places) == len(first.probabilities) == 3
    for place, mode in zip((here, there), first.places, strict=False):
        distance = great_circle_km(place.double(), torch.tensor(mode, dtype=torch.float64))
        assert distance < 300  # each mode stands on the ripples of the other
    mass = model.posterior(torch.zeros(1, 5)).mass_within(here.double())[0]
    assert first.probabilities[0] > first.probabilities[1] > 0.1 and sum(first.probabilities) <= 1.0001
    for k, expected in zip(pixels.THRESHOLDS_KM, mass, strict=True):
        lat, lon, probability = first.within[k]
        if k >= 750:  # some pixels
            assert probability == pytest.approx(expected.item(), rel=0.1)
            assert great_circle_km(here[0].double(), torch.tensor([lat, lon])) < 1000
    assert len(first.samples) == 16 and first.samples != second.samples and len(first.center) == 2
    everything = Pipeline(model).predict(torch.zeros(1, 5), samples=0, top_k=1000)[0]
    assert everything.samples == [] and math.isnan(everything.center[0])
    assert 2 < len(everything.places) < 100 and min(everything.probabilities) > 0
    assert sum(everything.probabilities) == pytest.approx(1, abs=1e-4)
    assert 0 < first.radius_50_km < first.radius_90_km and 0 < first.area_50_km2 < first.area_90_km2


@pytest.mark.parametrize("make", [seeing, lambda: zoomed(noise=0.5)], ids=["one level", "two levels"])
def test_a_summary_is_what_the_posterior_answers(make):
    model, embeddings = make(), torch.randn(2, 5)
    posterior = model.posterior(embeddings)
    for i, one in enumerate(summarize(posterior, samples=4, top_k=2, seed=3, first=7)):
        places, probability = posterior.modes(2)
        assert one.places == places[i].tolist() and one.probabilities == probability[i].tolist()
        assert one.samples == posterior.sample(4, 3, 7)[i].tolist()
        assert one.center == geographic_center(posterior.sample(4, 3, 7))[i].tolist()
        assert [one.radius_50_km, one.radius_90_km] == posterior.credible_radius(places[:, 0])[i].tolist()
        assert [one.area_50_km2, one.area_90_km2] == posterior.credible_regions()[1][i].tolist()
        best = {k: (*place[i].tolist(), mass[i].item()) for k, (place, mass) in posterior.best_within().items()}
        for (k, found), smaller in zip(one.within.items(), [(0.0, 0.0, 0.0), *one.within.values()], strict=False):
            assert found == (best[k] if best[k][2] >= smaller[2] else smaller)
        for pixel, mask in zip((one.pixels_50, one.pixels_90), posterior.credible_regions()[0][i], strict=True):
            assert one.nside == posterior.grid.nside and pixel.tolist() == mask.nonzero()[:, 0].tolist()


def test_probabilities_within_do_not_fall_with_the_radius(monkeypatch):
    """Where a larger radius has less, its location and probability are those of the smaller one."""
    posterior = seeing().posterior(torch.randn(1, 5))
    places = torch.arange(10.0, dtype=torch.float64).view(5, 1, 2)
    mass = torch.tensor([0.1, 0.3, 0.8, 0.7, 0.9]).view(5, 1)
    best = dict(zip(pixels.THRESHOLDS_KM, zip(places, mass, strict=True), strict=True))
    monkeypatch.setattr(posterior, "best_within", lambda: best)
    within = summarize(posterior)[0].within
    assert [round(one[2], 4) for one in within.values()] == [0.1, 0.3, 0.8, 0.8, 0.9]
    assert list(within) == list(pixels.THRESHOLDS_KM)
    assert within[750] == within[200] and within[2500][:2] == (8, 9)


def test_a_stream_in_pieces_predicts_the_same(megabytes):
    pipeline, embeddings = Pipeline(seeing(sample_steps=1)), torch.randn(5, 5)
    whole = pipeline.predict(embeddings, samples=3)
    megabytes(0.5)
    assert pipeline.model.posterior_batch_size == 2
    parts = list(pipeline.stream(embeddings, samples=3))
    assert [len(posterior) for posterior, _ in parts] == [2, 2, 1]
    for one, other in zip(whole, (one for _, chunk in parts for one in chunk), strict=True):
        assert one.samples == other.samples and np.allclose(one.places, other.places)
    assert pipeline.predict(embeddings.numpy(), samples=3) == [one for _, chunk in parts for one in chunk]


def test_no_pictures_have_no_predictions_and_wrong_ones_are_refused():
    for model in (tiny(), zoomed(noise=0.5)):
        assert Pipeline(model).predict(torch.empty(0, 5)) == []
    for wrong, message in [(torch.zeros(2, 4), r"\(2, 4\).*\(n, 5\)"), (torch.full((1, 5), math.nan), "NaN")]:
        with pytest.raises(InputError, match=message):
            Pipeline(tiny()).predict(wrong)


@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"top_k": -1}, {"samples": -1}, {"seed": -1}], ids=str)
def test_numbers_of_predictions_that_there_cannot_be_are_refused(wrong):
    with pytest.raises(InputError, match=r"at least|need"):
        Pipeline(tiny()).predict(torch.zeros(2, 5), **wrong)


def test_pictures_in_memory_have_the_embeddings_of_their_files(tmp_path):
    pipeline = Pipeline(tiny(encoder="thumbnail-16", embed_dim=768))
    images = [Image.radial_gradient("L").convert("RGB"), Image.linear_gradient("L").convert("RGB").resize((90, 40))]
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    assert torch.equal(pipeline.embed_images(images), pipeline.embed(paths))
    with pytest.raises(InputError, match="the model is one of words"):
        Pipeline(tiny(encoder="ngrams:5")).embed_images(images)
