"""Table 2 and Figure 5: which galleries they compare, what is found in these, and what they say."""

import figure_5
import galleries
import numpy as np
import pytest
import table_2
import torch
from galleries import OTHER_REGIONS, REGION, Gallery
from report import random_places
from support.figures import csv_rows, holds, is_png, smoke_context, with_names
from torch.nn.functional import normalize

from locdiff.data.embeddings import Embeddings
from locdiff.evaluation import retrieval
from locdiff.sphere import decoder, healpix
from locdiff.sphere.coordinates import geographic_center, great_circle_km


def random_gallery(own):
    """Return a Gallery of 300 places in two embedding dimensions, and the queries (6, 2) of its pictures."""
    random = torch.Generator().manual_seed(2)
    places, queries = random_places(300, random), torch.randn(6, 2, generator=random)
    vectors = torch.randn(300, 2, generator=random).numpy()
    embeddings = Embeddings(vectors, np.arange(300), places.numpy(), list(range(300)), "none")
    return Gallery("a gallery", places, lambda: (queries, embeddings), own), queries, torch.from_numpy(vectors)


def test_anchors_are_chosen_as_by_the_decoder(megabytes):
    generator = torch.Generator().manual_seed(0)
    coeffs = torch.randn(5, 81, generator=generator)
    anchors = healpix.healpix_anchors(9)
    gallery = Gallery("grid", anchors, None)
    best, _ = decoder.mode_seeking(coeffs, anchors, 0)
    torch.testing.assert_close(gallery.densest(coeffs, "cpu").float(), best)
    megabytes(0.01)  # in turns
    torch.testing.assert_close(gallery.densest(coeffs, "cpu").float(), best)
    samples = torch.rand(4, 3, 2, generator=generator, dtype=torch.float64)
    samples = samples * torch.tensor([180, 360]) - torch.tensor([90, 180])
    nearest = anchors[great_circle_km(samples[..., None, :], anchors).argmin(dim=-1)]
    torch.testing.assert_close(gallery.center(samples), geographic_center(nearest))


def test_a_picture_finds_no_place_in_its_own_cell(megabytes, monkeypatch):
    """By retrieval, by the density and by distance; that of another picture's cell it finds."""
    gallery, queries, vectors = random_gallery(None)
    coeffs = torch.randn(6, 25, generator=torch.Generator().manual_seed(1))
    cells = healpix.ang2pix(REGION, gallery.places)
    values = {
        "retrieve": normalize(queries, dim=-1) @ normalize(vectors, dim=-1).T,
        "densest": decoder.synthesis_at(coeffs, gallery.places),
        "nearest": -great_circle_km(gallery.places[:6, None], gallery.places),
    }
    megabytes(0.02)
    monkeypatch.setattr(retrieval, "_CHUNK", 6 * 50)
    for name, value in values.items():
        own = cells[value.argmax(dim=-1)]  # the best of each is in its own cell
        own[0] = -1
        allowed = value.masked_fill(own[:, None] == cells, -torch.inf)
        expected = gallery.places[allowed.argmax(dim=-1)]
        gallery.own = own
        found = {
            "retrieve": gallery.retrieve,
            "densest": lambda: gallery.densest(coeffs, "cpu"),
            "nearest": lambda: gallery.nearest(gallery.places[:6, None])[:, 0],
        }[name]()
        torch.testing.assert_close(found, expected, msg=name)
        assert (healpix.ang2pix(REGION, found) != own).all() and (expected != gallery.places[value.argmax(-1)]).any()


def test_a_grid_keeps_the_place_nearest_to_the_centre_of_each_cell():
    places = torch.cat([random_places(500, torch.Generator().manual_seed(0)), torch.tensor([[90.0, 0.0], [90.0, 7.0]])])
    chosen = galleries.thinned(places, 4)
    cells, centers = healpix.ang2pix(4, places), healpix.healpix_anchors(4)
    assert sorted(cells[chosen].tolist()) == cells.unique().tolist() and chosen.tolist() == sorted(chosen.tolist())
    for one in chosen:
        km = great_circle_km(places[cells == cells[one]], centers[cells[one]])
        assert great_circle_km(places[one], centers[cells[one]]) == km.min()


@pytest.fixture(scope="module")
def named(cache, tmp_path_factory):
    """The result of Table 2 at its smallest scale with place names, and their Data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(galleries, "NSIDES", (8, 2))
        data = with_names(patch)
        return table_2.compute(smoke_context(tmp_path_factory.mktemp("named"))), data


def test_the_galleries_of_place_names_are_the_training_names(named):
    result, data = named
    known = torch.from_numpy(data.train.lat_lon)
    sizes = [len(healpix.ang2pix(nside, known).unique()) for nside in (8, 2)]
    assert result["galleries_1"] == [
        "all training texts", f"grid, {sizes[0]:,}", f"grid, {sizes[1]:,}", OTHER_REGIONS,
    ]  # fmt: skip
    assert result["galleries_0"][0] == "MP16" and result["methods_0"] == ["GeoCLIP", *result["methods_1"][1:]]
    assert result["hits_1"].shape == (3, 4, len(data.truth), 5)
    grid = data.train.subset(galleries.thinned(known, 8).numpy())
    for i, searched in enumerate((data.train, grid)):
        km = great_circle_km(retrieval.retrieve(data.embeddings, searched), data.truth)[:, None]
        np.testing.assert_array_equal(result["hits_1"][0, i], km <= torch.tensor([1, 25, 200, 750, 2500]))
    cells = healpix.ang2pix(REGION, known)
    for i, limit in ((0, 1), (4, 2500)):
        reach = [
            (great_circle_km(known[cells != healpix.ang2pix(REGION, place)], place) <= limit).any().item()
            for place in data.truth
        ]
        said = result["about_1"].split("Of the test locations, ")[1].split(" %")[0].split("/")
        assert said[i] == f"{100 * np.mean(reach):.1f}"
        assert (result["hits_1"][:2, 3, :, i] <= np.array(reach)).all()


def test_table_2_has_a_table_and_claims_for_each_data_set(named, tmp_path):
    result, _ = named
    text, claims = table_2.draw(result, tmp_path)
    simulation, names = text.split("\n### Place names of GeoNames\n")
    assert simulation.count("\n| the paper's ") == 10 and "\n| the paper's " not in names
    assert names.count("\n| Retrieval |") == 4 and "| GeoCLIP | grid, 3,888 |" in simulation
    assert [(claim.data, claim.claim.split(", ")[0]) for claim in claims] == [
        *[("Simulation", "with every grid")] * 2,
        *[("Place names of GeoNames", "with every grid")] * 2,
        *[("Place names of GeoNames", "with other regions")] * 2,
    ]
    assert len(csv_rows(tmp_path / "table_2.csv")) == (15 + 12) * 5
    numbers = table_2.key_numbers(result)
    assert len(numbers) == 15 + 12 and numbers["GeoCLIP, 0"][1] == numbers["1: Retrieval, 3"][1] == 0.1
    text, same = figure_5.draw(result, tmp_path)
    assert is_png(tmp_path / "figure_5.png") and same == claims and "Place names of GeoNames. " in text


def test_table_2_says_what_the_losses_say():
    right = np.ones((3, 6, 100, 5))
    for method, loss in enumerate((0.5, 0.1, 0.2)):
        right[method, 1:, : int(100 * loss)] = 0
    names = ["all", *(f"grid, {size}" for size in (4, 3, 2, 1)), OTHER_REGIONS]
    one = {"title": "Names: some", "galleries": names, "hits": right}
    one["methods"] = ["GeoCLIP", table_2.DENSEST, table_2.CENTER]
    densest, center, *elsewhere = table_2.claims(one)
    assert densest.holds and center.holds and "GeoCLIP 50.0 to 50.0 %" in center.ours
    assert (
        densest.claim.startswith("with every grid, ")
        and densest.data == "Names"
        and densest.ours.startswith("relative to all: ")
    )
    assert center.brief == "20.0 to 20.0 % against 50.0 to 50.0 %"
    assert center.paper == "0.0 to 3.4 %, GeoCLIP 10.1 to 61.4 %" and densest.paper.startswith("not given")
    assert holds(elsewhere) == [True, True] and elsewhere[0].paper == "not tried"
    right[2, 4, :60, 2] = 0
    assert holds(table_2.claims(one)) == [True, False, True, True]
    right[1, 5, :60, 4] = 0
    assert holds(table_2.claims(one)) == [True, False, False, True]
    one |= {"galleries": names[:5], "hits": right[:, :5]}
    assert holds(table_2.claims(one)) == [True, False]
