"""Tables 8 and 9: all rows are trained alike, their summaries are those of the evaluation, they say what hits say."""

import data_sets
import numpy as np
import pytest
import table_8
import table_9
import torch
from support.figures import csv_rows, holds, is_png, smoke_context, with_names

from locdiff import options
from locdiff.evaluation import summaries
from locdiff.model import diffusion
from locdiff.sphere.coordinates import geographic_center


@pytest.fixture(scope="module")
def losses(cache, tmp_path_factory):
    """The result of Table 8 at its smallest scale, its Context, and what every training step saw: the sums of its clean
    encodings and of its noise, (steps, 2)."""
    folder, seen = tmp_path_factory.mktemp("losses"), []
    q_sample = diffusion.q_sample

    def recorded(x_0, alpha_bar, noise):
        seen.append((x_0.double().sum().item(), noise.double().sum().item()))
        return q_sample(x_0, alpha_bar, noise)

    context = smoke_context(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion, "q_sample", recorded)
        result = table_8.compute(context)
    return result, context, np.array(seen)


def test_table_8_trains_all_losses_alike(losses):
    _, context, seen = losses
    scale = table_8.SCALES["smoke"]
    data = data_sets.pictures(context, scale)
    seen = seen.reshape(len(table_8.LOSSES), len(scale.seeds) * scale.training["steps"], 2)
    np.testing.assert_array_equal(seen, np.broadcast_to(seen[0], seen.shape))  # the same pictures and noise
    assert len(np.unique(seen[0, :, 0])) == len(np.unique(seen[0, :, 1])) == seen.shape[1]
    plain = data.settings(exact_skip=False)
    for differs in table_8.LOSSES.values():
        own = data.settings(**{"exact_skip": False} | differs)
        assert own.training == plain.training
        values = options.flatten(plain.model)
        different = {name for name, value in options.flatten(own.model).items() if value != values[name]}
        assert different <= set(differs)


def test_table_8_summaries_are_those_of_the_evaluation(losses, megabytes):
    result, context, _ = losses
    data = data_sets.pictures(context, table_8.SCALES["smoke"])
    loss = list(table_8.LOSSES).index("likelihood")
    model, _ = context.trained(data.settings(exact_skip=False, loss="likelihood", seed=1), data.folder, data.train)
    found = summaries.predict_all(model, data.embeddings, data.truth, table_8.SAMPLES, 1, False)
    center = geographic_center(found["samples"]).double()
    truth = torch.cat([center[:7], found["mean"][7:14], found["mode"][14:]]).double()  # so that there are hits
    expected = summaries.score_model(model, found, truth)
    names = ("geographic centre", "one sample (", "medoid", "mean density of 16", "most probable mode")
    megabytes(7 * 4 * 20 * len(model.grid.anchors) / 2**20)
    assert model.posterior_batch_size == 7
    again = table_8.score(model, data.embeddings, data.truth, 1)["hits"]
    np.testing.assert_array_equal(again, result["hits_0"][loss, :, 1])
    for own, name in zip(table_8.score(model, data.embeddings, truth, 1)["hits"], names, strict=True):
        accuracy = next(row for title, row in expected.items() if name in title)["accuracy"]
        np.testing.assert_allclose(100 * own.mean(axis=0), list(accuracy.values()))


def test_table_8_shows_every_loss_and_summary_with_its_interval(losses, tmp_path):
    result, _, _ = losses
    text, claims = table_8.draw(result, tmp_path)
    assert is_png(tmp_path / "table_8.png") and "400 pictures to train on" in text and len(claims) == 6
    assert all(text.count(f"\n| {loss} |") == 2 for loss in table_8.LOSSES) and "10.9/34.0/53.3/72.5/85.2" in text
    rows = csv_rows(tmp_path / "table_8.csv")
    assert len(rows) == len(table_8.LOSSES) * len(table_8.SUMMARIES) * 5
    for row in rows:
        assert float(row["low"]) <= float(row["per cent"]) <= float(row["high"])
        assert float(row["least seed"]) <= float(row["per cent"]) + 1e-9 <= float(row["most of seeds"]) + 2e-9
    published = [row["paper"] for row in rows if row["loss"] == "L2" and row["paper"]]
    assert published == [str(x) for x in table_8.PAPER["L2"]]


def test_table_8_has_a_table_and_claims_for_each_data_set(losses, tmp_path, monkeypatch):
    _, context, _ = losses
    data = with_names(monkeypatch)
    monkeypatch.setattr(table_8, "LOSSES", {name: table_8.LOSSES[name] for name in losses_of_claims()})
    result = table_8.compute(context)
    loss = losses_of_claims().index(table_8.L2)
    settings = data_sets.Pictures(data.title, data.folder, table_8.SMOKE).settings(exact_skip=False, loss="l2", seed=1)
    model, _ = context.trained(settings, data.folder, data.train)
    test = data.test.subset(np.linspace(0, 39, 20).astype(int)).batch(range(20))
    np.testing.assert_array_equal(result["hits_1"][loss, :, 1], table_8.score(model, *test, 1)["hits"])
    text, claims = table_8.draw(result, tmp_path)
    pictures, names = text.split("\n### Place names of GeoNames\n")
    assert "400 pictures to train on" in pictures and "400 texts to train on" in names
    assert all(part.count("\n| L2 |") == 2 for part in (pictures, names))
    assert [claim.data for claim in claims] == [f"{data_sets.VIEWS}, mild jitter"] * 6 + [data_sets.NAMES] * 6
    assert claims[6:] == table_8.claims("Place names of GeoNames", result["hits_1"])
    numbers = table_8.key_numbers(result)
    assert len(numbers) == 2 * len(losses_of_claims()) * 5 and "1: L2, one sample" in numbers
    assert len(csv_rows(tmp_path / "table_8.csv")) == 5 * len(numbers)
    (mine,) = data_sets.pictures_and_names(smoke_context(tmp_path, str(data.folder)), table_8.SMOKE)
    assert mine.title == f"Pictures of {data.folder.name}"


def losses_of_claims():
    """Return the losses that the claims of Table 8 are about."""
    names = table_8.L2, table_8.KL, table_8.NEARLY_L2
    return [*names, table_8.L2 + table_8.COSINE, table_8.KL + table_8.COSINE]


@pytest.mark.parametrize(
    ("center", "mean", "holding", "said"),
    [
        ((0.8, 0.2), (0.5, 0.5), [True, True, False], ("ahead: +60.0 ", "neither ahead nor behind: +0.0 ")),
        ((0.5, 0.4), (0.5, 0.7), [True, False, False], ("ahead: +10.0 ", "behind: -20.0 ")),
        ((0.2, 0.5), (0.7, 0.5), [False, False, True], ("behind: -30.0 ", "ahead: +20.0 ")),
        ((0.4, 0.4), (0.5, 0.5), [False, False, False], ("neither ahead nor behind: +0.0 ",) * 2),
    ],
)
@pytest.mark.parametrize("narrow", [0.5, 0.3])
def test_table_8_says_what_the_hits_say(center, mean, holding, said, narrow):
    """With the paper's schedule SHDD-KL and L2 have these shares of hits by the center and by the mean density."""
    right = {(loss, name): 0.4 for loss in table_8.LOSSES for name in table_8.SUMMARIES}
    for i, loss in enumerate((table_8.KL, table_8.L2)):
        right[loss + table_8.COSINE, table_8.CENTER] = center[i]
        right[loss + table_8.COSINE, table_8.MEAN] = mean[i]
    right[table_8.NEARLY_L2, table_8.MEAN] = narrow
    pictures = np.arange(400)[:, None] < 400 * np.array(list(right.values()))[:, None, None, None]
    hits = np.broadcast_to(pictures, (len(right), 2, 400, 5)).astype(float)
    claims = table_8.claims("Names", hits.reshape(len(table_8.LOSSES), len(table_8.SUMMARIES), 2, 400, 5))
    assert holds(claims) == [*holding, False, False, narrow < 0.4]
    assert claims[0].ours.startswith(said[0]) and claims[2].ours.startswith(said[1])
    assert claims[3].ours.startswith("neither") and claims[4].ours.startswith("neither")
    assert claims[0].paper == "+33.2 / +39.8 / +40.3" == claims[1].paper
    assert all(claim.data == "Names" for claim in claims) and claims[1].brief == claims[1].ours


def test_table_9_compares_networks_of_several_sizes(losses, tmp_path):
    _, context, _ = losses
    result = table_9.compute(context)
    size = dict(zip(table_9.NETWORKS, result["parameters"], strict=True))
    assert size[32, 2] < size[32, 6] < size[128, 6] < size[256, 6] < size[512, 6]
    assert result["hits"].shape == (6, 2, 2, 20, 5)
    text, claims = table_9.draw(result, tmp_path)
    assert text.count("| w = 128, d = 6 |") == 2 and "Of one seed" not in text and len(claims) == 2
    assert all(part in text for part in ("4.7/27.0/50.2/70.8/84.3", "3 steps of 64", "l_max 5 ", "seeds 0, 1."))
    assert len(csv_rows(tmp_path / "table_9.csv")) == 6 * 2 * 5
    assert text.count(" to ") >= 6 * 2 * 5
    text, _ = table_9.draw(result | {"hits": result["hits"][:, :, :1]}, tmp_path)
    assert "Of one seed" in text and " (0.0 to " not in text


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.5, "worse at none, better at 750 km;"), (0.4, "worse at none, better at none;"), (0.3, "worse at 750 km, ")],
)
def test_table_9_says_what_the_hits_say(share, said):
    right = np.tile((np.arange(400) < 160)[:, None], (len(table_9.NETWORKS), 2, 1, 1, 5)).astype(float)
    right[table_9.NETWORKS.index(table_9.NARROW), 0, 0, :, 3] = np.arange(400) < 400 * share
    center, mode = table_9.claims(right)
    assert center.ours.startswith(said) and center.holds == (share >= 0.4)
    assert center.claim.startswith(table_9.CENTER) and mode.holds
