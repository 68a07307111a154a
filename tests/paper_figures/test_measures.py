"""What the comparison's tables say, by values computed by hand; and its folds by author."""

import dataclasses
import math

import comparison
import data_sets
import measures
import numpy as np
import pytest
import torch
from methods.densities import PixelDensities
from support.embeddings import embedded, scattered
from support.figures import smoke_context

from locdiff.errors import InputError
from locdiff.evaluation import coverage
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.training.trainer import Trainer

NORTH = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 179.9]], dtype=torch.float64)
DEGREE = math.pi / 180 * 6371.0088


def test_measures_of_places_are_hits_and_distances():
    places = np.array([[0.0, 0.1], [10.0, 3.0], [np.nan, np.nan]])
    found = measures.measure({"places": places}, NORTH)
    assert found["hits"].tolist()[0] == [False, True, True, True, True]
    assert found["hits"].tolist()[1:] == [[False, False, False, True, True], [False] * 5]
    assert found["km"][0] == pytest.approx(0.1 * DEGREE, rel=1e-9) and np.isinf(found["km"][2])
    assert np.isnan(found["nats"]).all() and np.isnan(found["energy"]).all() and np.isnan(found["prdc"]).all()
    assert np.isnan(found["seconds"])


def test_measures_of_densities_are_over_the_uniform_one():
    uniform = PixelDensities(torch.full((3, 12 * 64**2), 1 / (12 * 64**2)))
    found = measures.of_posteriors([(0, uniform)], NORTH, NORTH) | {"ms": 1.0}
    kept = measures.measure(found | {"lr": 0.5}, NORTH)
    np.testing.assert_allclose(kept["nats"], 0, atol=1e-5)
    assert kept["hits"].shape == (3, 5) and kept["lr"] == 0.5 and found["samples"].shape == (3, measures.SAMPLES, 2)
    assert kept["energy"].mean() == pytest.approx(coverage.energy_score(torch.from_numpy(found["samples"]), NORTH))
    assert ((kept["rank"] >= 0) & (kept["rank"] <= 1)).all() and kept["ms"] > 0


def test_the_best_places_have_a_table_of_their_own():
    each = np.repeat(NORTH.numpy()[:, None], 5, axis=1)
    both = measures.measure({"places": np.zeros((3, 2)), "each": each}, NORTH)
    alone = measures.measure({"places": np.zeros((3, 2))}, NORTH)
    assert both["best"].tolist() == [[1.0] * 5] * 3 and np.isnan(alone["best"]).all() and alone["best"].shape == (3, 5)
    assert measures.best_rows({"both": both, "alone": alone}) == [["both", *["100.0 [100.0, 100.0]"] * 5]]


def test_the_tables_have_the_numbers_and_the_differences_on_the_same_pictures():
    rng = np.random.default_rng(0)
    ours = {"places": np.zeros((200, 2)), "log_prob": rng.normal(size=200), "rank": np.linspace(0, 1, 200),
            "samples": np.zeros((200, 4, 2)), "seconds": 60.4, "parameters": 2.5e6, "ms": 3.0}  # fmt: skip
    theirs = ours | {"log_prob": ours["log_prob"] - 1, "places": np.ones((200, 2))}
    truth = torch.zeros(200, 2, dtype=torch.float64)
    methods = {name: measures.measure(found, truth) for name, found in (("ours", ours), ("theirs", theirs))}
    first, second = measures.distance_rows(methods)
    assert (
        first[0] == "ours"
        and first[1] == "100.0 [100.0, 100.0]"
        and first[6:] == ["0", "0", "5000", "60", "2.5", "", "3.0"]
    )
    assert second[1] == "0.0 [0.0, 0.0]" and second[6] == f"{DEGREE * math.sqrt(2):.0f}"
    first, second = measures.density_rows(methods, "ours")
    assert first[2] == "" and second[2] == "-1.00 [-1.00, -1.00]"
    nats = ours["log_prob"].mean() + math.log(4 * math.pi)
    assert first[1].startswith(f"{nats:.2f} [") and first[3] == f"{-ours['log_prob'].mean() / (3 * math.log(2)):.2f}"
    assert first[4].startswith("50.0 [") and first[5].startswith("90.0 [") and first[6] == "0"
    groups = ["a"] * 100 + ["b"] * 100
    wide = measures.density_rows(methods, "ours", groups)[0][4]
    assert wide == "50.0 [0.0, 100.0]"  # two authors, one of whom has all the lower ranks


def test_the_best_of_every_column_is_bold_whoever_it_is():
    header = ("", "200 km", "median km", "training, s", "nats over uniform")
    rows = [["a", "3.0 [1.0, 5.0]", "120", "3", "-1.00 [-2.00, 0.00]"], ["b", "12.0 [9.0, 15.0]", "80", "5", ""]]
    assert measures.emphasize(header, rows, ("median km",)) == [
        ["a", "3.0 [1.0, 5.0]", "120", "3", "-1.00 [-2.00, 0.00]"],
        ["b", "**12.0 [9.0, 15.0]**", "**80**", "5", ""],
    ]
    assert (
        measures.emphasize(("", "1 km"), [["a", "0.0 [0.0, 0.0]"], ["b", "0.0 [0.0, 0.0]"]])[0][1] == "0.0 [0.0, 0.0]"
    )


def test_every_picture_is_tested_in_one_fold_and_no_author_is_on_both_sides():
    data = embedded(scattered(300))
    data.authors = [
        f"author {int((2 * i) ** 0.5) if i < 150 else 99}" for i in range(len(data))
    ]  # one has half of the pictures
    folds = data_sets.author_folds(data, "mine")
    assert len(folds) == data_sets.FOLDS
    tested = [name for _, test in folds for name in test.ids]
    assert sorted(tested) == sorted(data.ids)
    sizes = sorted(len(test) for _, test in folds)
    assert sizes[3] - sizes[0] <= 4  # the other authors have 1 to 17 each
    for train, test in folds:
        assert len(test) and len(train) + len(test) == len(data)
        assert not set(train.authors) & set(test.authors)
    data.authors = ["one"] * len(data)
    with pytest.raises(InputError, match="1 authors; 5 folds"):
        data_sets.author_folds(data, "mine")
    data.authors = None
    with pytest.raises(InputError, match="does not name the author"):
        data_sets.author_folds(data, "mine")


def test_the_folds_of_photographs_share_the_steps_of_a_data_set(tmp_path, monkeypatch):
    data = embedded(scattered(60))
    data.authors = [f"author {i % 10}" for i in range(60)]
    monkeypatch.setattr(data_sets, "read_embeddings", lambda folder: data)
    context = dataclasses.replace(smoke_context(tmp_path), photos="mine")
    folds, whole = data_sets.photographs(context), data_sets.SCALES["smoke"]
    assert [fold.settings().training.steps for fold in folds] == [whole.steps // 5] * 5
    assert sum(len(fold.test) for fold in folds) == 60 and len({str(fold.key) for fold in folds}) == 5


def test_folds_are_joined_picture_by_picture():
    fold = {"a": {"places": np.zeros((2, 2)), "seconds": np.array(3.0)}}
    other = {"a": {"places": np.ones((3, 2)), "seconds": np.array(5.0)}}
    both = comparison.joined([fold, other])["a"]
    assert both["places"].sum() == 6 and both["places"].shape == (5, 2) and both["seconds"] == 4
    rates = [{"a": {"lr": np.array(rate)}} for rate in (1e-3, 3e-3)]
    assert np.isnan(comparison.joined(rates)["a"]["lr"]) and comparison.joined(rates[:1] * 2)["a"]["lr"] == 1e-3


def test_locdiffusions_own_row_is_what_the_program_trains(cache, tmp_path):
    """The same settings, data and seed give the same weights as the trainer of `locdiff.train`."""
    scale = data_sets.SCALES["smoke"]
    data = data_sets.Data("views", data_sets.blue_marble(scale.blue_marble, False), scale)
    model, _ = comparison.locdiffusion_model(smoke_context(tmp_path), data)
    known, kept, settings = comparison.parts(data, data.settings())
    trainer = Trainer(settings, known, data.device, LocDiffusion, kept)
    trainer.validate()
    while not trainer.has_ended:
        trainer.training_step()
        trainer.validate()
    expected = trainer.finished_model(progress=False)
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
