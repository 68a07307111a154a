"""Models in folders: what is saved is what is loaded, damage is named, and folders of format 3 are read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.models import three_levels, tiny, zoomed

from locdiff.errors import InputError
from locdiff.model import checkpoint
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.sphere.coordinates import great_circle_km
from locdiff.sphere.healpix import healpix_anchors
from locdiff.training.settings import load_data, override, read_settings
from locdiff.training.trainer import Trainer

FORMAT_3 = Path(__file__).parents[1] / "data" / "format_3"  # a run of 40 steps, and its state after 20 of them


@pytest.mark.parametrize("make", [tiny, zoomed, lambda: three_levels(healpix_anchors(8)[300], 20)])
def test_a_loaded_model_is_the_saved_one(make, tmp_path):
    model, embeddings = make(), torch.randn(3, 5)
    torch.nn.init.normal_(model.network.head.weight)
    model.save(tmp_path / "run")
    again = LocDiffusion.load(tmp_path / "run", "cpu")
    assert again.config == model.config
    assert torch.equal(again.posterior(embeddings).pixel_probs, model.posterior(embeddings).pixel_probs)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "model.safetensors"]
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record.pop("format_version") == 4 and checkpoint.config_from_record(record) == model.config


def test_a_model_of_the_hub_is_found_where_it_was_downloaded_to(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tiny()
    downloaded = tmp_path / "hub" / "models--me--my-model"
    model.save(downloaded / "snapshots" / "0123abcd")
    (downloaded / "refs").mkdir()
    (downloaded / "refs" / "main").write_text("0123abcd")
    loaded = LocDiffusion.load("me/my-model", "cpu", local_files_only=True)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)
    with pytest.raises(InputError, match=r"me/other is neither a folder nor a model that can be had.*give the folder"):
        LocDiffusion.load("me/other", "cpu", local_files_only=True)
    monkeypatch.chdir(tmp_path)  # a folder `hub` exists: a name in it is a path, and nothing is asked of the network
    for absent in ("hub/other", "absent", tmp_path / "absent", "./hub/other"):
        with pytest.raises(InputError, match=r"config.json is missing"):
            LocDiffusion.load(absent, "cpu")


def damage(folder, what):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if what == "no weights":
        (folder / "model.safetensors").unlink()
    elif what == "cut weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    elif what == "no config":
        path.unlink()
    elif what == "no json":
        path.write_text("{")
    elif what == "a list":
        path.write_text("[]")
    else:
        path.write_text(json.dumps({**config, **what, "network": config["network"] | what.get("network", {})}))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"network": {"width": 17}}, "does not fit"), ({"format_version": 99}, "format version 99"),
        ({"color": 1}, "that do not fit: .*color"), ({"network": {"color": 1}}, "that do not fit: .*color"),
        ({"inference": None}, "that do not fit: InferenceConfig"), ({"inference": [1]}, "InferenceConfig needs"),
        ("no weights", "is missing"), ("cut weights", "damaged"), ("no config", "is missing"),
        ("no json", "no model configuration"), ("a list", "no model configuration"),
    ],
)  # fmt: skip
def test_a_damaged_model_folder_is_refused_by_name(tmp_path, what, message):
    tiny().save(tmp_path)
    damage(tmp_path, what)
    with pytest.raises(InputError, match=message) as error:
        LocDiffusion.load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_checkpoint_of_other_cells_is_refused(tmp_path):
    zoomed(range(10)).save(tmp_path / "a")
    zoomed(range(11)).save(tmp_path / "b")
    (tmp_path / "a" / "model.safetensors").replace(tmp_path / "b" / "model.safetensors")
    with pytest.raises(InputError, match=r"does not fit its config\.json"):
        LocDiffusion.load(tmp_path / "b", "cpu")


def expected():
    return json.loads((FORMAT_3 / "expected.json").read_text())


def test_a_folder_of_format_3_gives_the_answers_that_it_gave():
    model, wanted = LocDiffusion.load(FORMAT_3, "cpu"), expected()
    assert model.config.refinement.cells == (25, 35) and model.config.diffusion.p_pure_noise == 0.8
    truth = torch.tensor(wanted["truth"], dtype=torch.float64)
    posterior = model.posterior(torch.tensor(wanted["embeddings"]))
    modes, probabilities = posterior.modes(3)
    found = {
        "log_likelihood": posterior.log_prob(truth),
        "probabilities": probabilities,
        "mass_within": posterior.mass_within(truth),
        "pixel_sum_of_squares": posterior.pixel_probs.square().sum(dim=-1),
    }
    for name, value in found.items():
        torch.testing.assert_close(
            value, torch.tensor(wanted[name]), rtol=1e-5, atol=1e-12, msg=name, check_dtype=False
        )
    far = great_circle_km(modes, torch.tensor(wanted["modes"], dtype=torch.float64))[probabilities > 0]
    assert len(far) == 7 and far.max() < 1e-2


def test_a_folder_of_format_3_is_written_as_format_4(tmp_path):
    model = LocDiffusion.load(FORMAT_3, "cpu")
    model.save(tmp_path)
    again = LocDiffusion.load(tmp_path, "cpu")
    assert again.config == model.config and json.loads((tmp_path / "config.json").read_text())["format_version"] == 4
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_a_run_of_format_3_is_resumed_as_it_went_on(tmp_path):
    run = shutil.copytree(FORMAT_3, tmp_path / "run")
    settings = read_settings(run)
    settings = override(settings, data=str(run / settings.training.data))
    train, _ = load_data(settings)
    trainer = Trainer(settings, train, torch.device("cpu"))
    trainer.restore(run)
    assert trainer.step == 20 and trainer.guard.usual_norm == pytest.approx(1.7111145596117079)
    while trainer.step < trainer.steps:
        trainer.training_step()
    wanted = {checkpoint.rename_tensor(name): total for name, total in expected()["after_40_steps"].items()}
    assert trainer.step == 40 and trainer.average.keys() == wanted.keys()
    for name, value in trainer.average.items():
        assert value.double().sum().item() == pytest.approx(wanted[name], rel=1e-6, abs=1e-6), name
