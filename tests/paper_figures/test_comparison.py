"""The comparison behind Tables 1 and 2 and Figure 5: what it shows, how it goes on, and what it says."""

import dataclasses
from types import SimpleNamespace

import comparison
import context as context_module
import data_sets
import make_all
import numpy as np
import pytest
import table_1
import table_2
import torch
from methods.families import FAMILIES
from support.figures import csv_rows, is_png, make, smoke_context

from locdiff.data.blue_marble import blue_marble
from locdiff.data.embeddings import write_embeddings
from locdiff.errors import InputError
from locdiff.evaluation import hybrid


@pytest.fixture(scope="module")
def compared(cache, tmp_path_factory):
    """The output folder of the comparison at its smallest scale, and the Context that it ran in."""
    folder = make(tmp_path_factory.mktemp("compared"), "table_1", "table_2", "figure_5")
    return folder, smoke_context(folder)


@pytest.mark.parametrize("name", ["table_1", "table_2", "figure_5"])
def test_key_numbers_of_the_comparison_are_its_accuracies(name, compared):
    folder, _ = compared
    result, provenance = make_all.read(name, folder)
    numbers = make_all.ARTEFACTS[name].key_numbers(result)
    assert provenance["settings"]["scale"] == "smoke" and provenance["pieces_from"]
    assert len(numbers) == (2 * 2 * len(result["methods_0"]) if name == "table_1" else 15)
    assert all(0 <= value <= 100 and tolerance > 0 for value, tolerance in numbers.values())


def text_of_hybrids():
    return [name.format(16) for name in (hybrid.NEAR_SAMPLES, hybrid.WEIGHED_MODES, hybrid.WEIGHTED)]


def test_the_comparison_shows_every_method_on_both_data_sets_beside_the_paper(compared):
    folder, _ = compared
    text = (folder / "table_1.md").read_text()
    only_samples = {"Diffusion in R^3 with projection"}
    no_density = {"Regression of the unit vector", comparison.MODE, *text_of_hybrids()}
    for name in [*FAMILIES, *table_1.COUNTERPARTS, comparison.MODE, comparison.EACH, hybrid.WEIGHTED]:
        tables = 1 if name in no_density else 2 if name in only_samples else 3
        assert text.count(f"\n| {name} |") == 2 * tables, name
    published = "8.5/24.8/34.3/48.4/64.6", "| GeoDecoder | 12.8/33.5/45.9/61.0/76.1 | 10.1/23.9/34.1/49.6/69.0 |"
    assert all(row in text for row in published)
    assert "only show that the program runs" in text
    assert "Simulation: location embeddings of held-out places" in text
    rows = csv_rows(folder / "table_1.csv")
    assert all(float(row["low"]) <= float(row["per cent"]) <= float(row["high"]) for row in rows)
    assert len(rows) == 2 * 5 * (1 + 2 + len(FAMILIES) + 5 + 3)  # the prior, searches, LocDiffusion, hybrids
    assert is_png(folder / "table_1.png") and is_png(folder / "figure_5.png")
    text = (folder / "table_2.md").read_text()
    assert "GeoCLIP | grid, 3,888 |" in text
    assert "| the paper's GeoCLIP | grid, 21 k | 0.0 (-100.0 %) | 0.9 (-97.5 %)" in text


def test_the_rate_that_the_pictures_kept_apart_find_best_is_taken(compared, tmp_path, monkeypatch):
    _, context = compared
    data, asked = next(data_sets.data_sets(context))[0], []

    def trained(make, known, settings, device, validation):
        t = settings.training
        asked.append((t.lr, t.steps, t.warmup, len(validation)))
        if t.lr == worst:
            raise InputError("it diverges")
        return SimpleNamespace(validation=SimpleNamespace(nats=-t.lr if worst == 0 else t.lr))

    monkeypatch.setattr(comparison, "trained", trained)
    for worst, best in ((0, 1e-3), (3e-3, 1e-3), (1e-3, 3e-3)):
        fresh = dataclasses.replace(context, pieces=tmp_path / str(worst))
        assert comparison.own_rate(fresh, data) == best
    steps = data.scale.search
    assert asked[:2] == [(1e-3, steps, steps // 4, asked[0][3]), (3e-3, steps, steps // 4, asked[0][3])] and asked[0][3]
    monkeypatch.setattr(comparison, "split_validation", lambda train, *_: (train, None))
    with pytest.raises(InputError, match="no pictures can be kept apart to choose a learning rate"):
        comparison.own_rate(fresh, data)


def test_an_interrupted_comparison_goes_on_from_its_pieces(compared, monkeypatch):
    _, context = compared
    whole = table_1.compute(context)
    lost = next(context.pieces.glob("planet-style-classification-????????????.npz"))
    content = lost.read_bytes()
    lost.unlink()
    trained, train = [], context_module.train_baseline
    monkeypatch.setattr(
        context_module, "train_baseline", lambda make, *rest, **more: trained.append(make) or train(make, *rest, **more)
    )
    again = table_1.compute(context)
    assert len(trained) == 1 and lost.exists() and content
    np.testing.assert_array_equal(again["hits_0"], whole["hits_0"])
    np.testing.assert_array_equal(again["hits_1"], whole["hits_1"])


def test_the_users_embeddings_take_the_place_of_the_embedded_data(compared, tmp_path):
    folder = blue_marble(data_sets.SCALES["smoke"].blue_marble, False)
    context = smoke_context(tmp_path, str(folder))
    [[data]] = data_sets.data_sets(context)
    assert data.title == f"Pictures of {folder.name}" and "searches the 400 training pictures" in data.about()
    with pytest.raises(InputError, match="ViT-L-14/openai"):
        table_2.compute(context)
    with pytest.raises(InputError, match="no folder"):
        list(data_sets.data_sets(smoke_context(tmp_path, str(tmp_path / "none"))))


@pytest.mark.parametrize(
    ("encoder", "taken"),
    [
        ("open_clip:ViT-L-14/openai+gelu", False),
        ("open_clip:ViT-L-14/openai", True),
        ("ViT-L-14/laion2b_s32b_b82k", False),
        ("ViT-L-14-336/openai", False),
    ],
)
def test_geoclips_gallery_is_searched_only_with_embeddings_that_it_takes(encoder, taken, cache, tmp_path):
    """Which is known when the data are opened, not after hours of training."""
    random = torch.Generator().manual_seed(0)
    embeddings, lat_lon = torch.randn(40, 768, generator=random), 80 * torch.rand(40, 2, generator=random)
    write_embeddings(tmp_path / "mine", embeddings, lat_lon, encoder)
    context = smoke_context(tmp_path, str(tmp_path / "mine"))
    [[data]] = data_sets.data_sets(context)
    assert (data.places is not None) == taken
    assert ("the 36 training pictures by their embeddings" in data.about()) != taken
    if taken:
        data.places = data.places[:10]
        assert data.search()[0].shape == (4, 512)
    else:
        with pytest.raises(InputError, match="ViT-L-14/openai"):
            table_2.compute(context)


def test_a_piece_is_computed_once_for_each_key_and_whole_or_not_at_all(tmp_path):
    context = smoke_context(tmp_path)
    for value in (1, 2):
        assert context.piece("a", {"x": value}, lambda value=value: {"y": np.array(value)})["y"] == value
        assert context.piece("a", {"x": value}, lambda: 1 / 0)["y"] == value
    with pytest.raises(ZeroDivisionError):
        context.piece("b", {}, lambda: {"y": 1 / 0})
    assert not list((tmp_path / "pieces").glob("*b-*"))


@pytest.mark.parametrize(("shift", "worse"), [(1, "none"), (-1, "25 km")])
def test_table_1_says_what_the_hits_say(shift, worse):
    rng = np.random.default_rng(0)
    base = rng.random((400, 5)) < [0.1, 0.5, 0.5, 0.5, 0.5]
    right = {
        comparison.RETRIEVAL: base,
        comparison.CENTER: base & False,
        comparison.MODE: base,
        comparison.EACH: base | (rng.random((400, 5)) < 0.3),
    }
    right[hybrid.WEIGHTED] = right[comparison.EACH].copy()
    if shift < 0:
        right[hybrid.WEIGHTED][:100, 1] = False
    alone, together = table_1.claims("Views", right)
    assert (
        alone.holds
        and alone.data == "Views"
        and alone.brief.count(" / ") == 2
        and alone.ours.startswith(comparison.EACH)
    )
    assert together.holds == (shift > 0) and together.ours.endswith(f"; worse at {worse}")
    assert "25.0 % of the pictures" in table_1.about_the_search(np.arange(400) < 100)
    right[comparison.EACH] = right[comparison.MODE] = base & (np.arange(5) < 4)  # behind at 2500 km
    assert table_1.claims("Views", right)[0].holds is False
