"""Models in folders: what is saved is what is loaded, damage is named, and folders of format 3 are read."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
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
    model.save_pretrained(tmp_path / "run")
    again = LocDiffusion.from_pretrained(tmp_path / "run", "cpu")
    assert again.config == model.config
    assert torch.equal(again.posterior(embeddings).pixel_probs, model.posterior(embeddings).pixel_probs)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "model.safetensors"]
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record.pop("format_version") == 6 and checkpoint.config_from_record(record) == model.config


def test_a_model_of_the_hub_is_found_where_it_was_downloaded_to(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tiny()
    downloaded = tmp_path / "hub" / "models--me--my-model"
    model.save_pretrained(downloaded / "snapshots" / "0123abcd")
    (downloaded / "refs").mkdir()
    (downloaded / "refs" / "main").write_text("0123abcd")
    loaded = LocDiffusion.from_pretrained("me/my-model", "cpu", local_files_only=True)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)
    with pytest.raises(InputError, match=r"me/other is neither a folder nor a model that can be had.*give the folder"):
        LocDiffusion.from_pretrained("me/other", "cpu", local_files_only=True)
    monkeypatch.chdir(tmp_path)  # a folder `hub` exists: a name in it is a path, and nothing is asked of the network
    for absent in ("hub/other", "absent", tmp_path / "absent", "./hub/other"):
        with pytest.raises(InputError, match=r"config.json is missing"):
            LocDiffusion.from_pretrained(absent, "cpu")


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
    elif what == "binary":
        path.write_bytes(b"\xff\xfe")
    elif what == "a folder":
        path.unlink()
        path.mkdir()
    elif what == "a folder of weights":
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").mkdir()
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
        ({"network": {"l_max": 7.5}}, "config.json holds .*: l_max must be a whole number, got 7.5"),
        ({"network": {"whiten": True}}, "config.json holds .*: whiten must be a finite number, got True"),
        ({"network": {"depth": "2"}}, "config.json holds .*: depth must be a whole number, got '2'"),
        ({"network": {"depth": 3}}, "config.json holds .*: depth must be even, got 3"),
        ({"encoder": 5}, "config.json holds .*: encoder must be text, got 5"),
        ({"format_version": True}, "format version True"),
        ({"embed_dim": 10**12}, "config.json holds .*: embed_dim must lie in 1..1,000,000"),
        ("binary", "not text"), ("a folder", "config.json as JSON: .*directory"),
        ("a folder of weights", "model.safetensors cannot be read"),
        ("no weights", "is missing"), ("cut weights", "damaged"), ("no config", "is missing"),
        ("no json", "as JSON"), ("a list", "no model configuration"),
    ],
)  # fmt: skip
def test_a_damaged_model_folder_is_refused_by_name(tmp_path, what, message):
    tiny().save_pretrained(tmp_path)
    damage(tmp_path, what)
    with pytest.raises(InputError, match=message) as error:
        LocDiffusion.from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_checkpoint_of_other_cells_is_refused(tmp_path):
    zoomed(range(10)).save_pretrained(tmp_path / "a")
    zoomed(range(11)).save_pretrained(tmp_path / "b")
    (tmp_path / "a" / "model.safetensors").replace(tmp_path / "b" / "model.safetensors")
    with pytest.raises(InputError, match=r"does not fit its config\.json"):
        LocDiffusion.from_pretrained(tmp_path / "b", "cpu")


def spoil(folder, change):
    """Change the tensors of the model in a folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["network.head.weight"].view(-1)[3:4].fill_(math.nan), "network.head.weight holds NaN or infinity"),
        (lambda t: t["network.head.bias"].view(-1)[3:4].fill_(math.inf), "network.head.bias holds NaN or infinity"),
        (
            lambda t: t.update({"network.head.bias": torch.zeros(3)}),
            r"head.bias is \(3,\) of .*, and should be \(64,\)",
        ),
        (lambda t: t.update({"network.head.bias": torch.zeros(64).char()}), "of int8, and should be .* of float32"),
        (lambda t: t.pop("network.head.bias"), "it lacks network.head.bias"),
        (lambda t: t.update({"extra": torch.zeros(1)}), "it has in addition extra"),
        (lambda t: t["refinements.0.cell_id"].copy_(torch.arange(10).flip(0)), "cell_id must rise within 0..767"),
        (lambda t: t["refinements.0.cell_id"][1:2].fill_(0), "cell_id must rise"),
        (lambda t: t["refinements.0.cell_id"][:1].fill_(-1), "cell_id must rise"),
        (lambda t: t["refinements.0.cell_id"][-1:].fill_(768), "cell_id must rise"),
    ],
)
def test_weights_that_are_none_are_refused_by_name(tmp_path, change, message):
    zoomed(range(10)).save_pretrained(tmp_path)
    LocDiffusion.from_pretrained(tmp_path, "cpu")
    spoil(tmp_path, change)
    with pytest.raises(InputError, match=rf"model\.safetensors .*{message}"):
        LocDiffusion.from_pretrained(tmp_path, "cpu")


def test_a_configuration_of_a_model_that_fits_no_memory_is_refused(tmp_path):
    """Of one array of 2 TB: it cannot be had, or else, where memory is promised before it is there, does not fit."""
    model = zoomed()
    model.save_pretrained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    record["refinement"] |= {"zoom_rank": 65_536, "zoom_l_max": 95}
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"config\.json (describes a model that cannot be made|.*should be)"):
        LocDiffusion.from_pretrained(tmp_path, "cpu")


def test_a_file_is_no_model_folder(tmp_path):
    tiny().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"config.json is a file: give the folder of a training run"):
        LocDiffusion.from_pretrained(tmp_path / "config.json", "cpu")


def expected():
    return json.loads((FORMAT_3 / "expected.json").read_text())


def test_a_folder_of_format_3_gives_the_answers_that_it_gave():
    model, wanted = LocDiffusion.from_pretrained(FORMAT_3, "cpu"), expected()
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


def test_the_broad_part_is_kept_and_a_model_from_before_it_has_none(tmp_path):
    model = tiny()
    model.objective.broad.copy_(torch.tensor([0.25, 0.5]))
    model.save_pretrained(tmp_path)
    assert LocDiffusion.from_pretrained(tmp_path, "cpu").objective.broad.tolist() == [0.25, 0.5]
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["objective.broad"]
    save_file(tensors, tmp_path / "model.safetensors")
    assert LocDiffusion.from_pretrained(tmp_path, "cpu").objective.broad.tolist() == [0.0, 1.0]


def test_a_folder_of_format_3_is_written_as_format_6(tmp_path):
    model = LocDiffusion.from_pretrained(FORMAT_3, "cpu")
    model.save_pretrained(tmp_path)
    again = LocDiffusion.from_pretrained(tmp_path, "cpu")
    assert again.config == model.config and json.loads((tmp_path / "config.json").read_text())["format_version"] == 6
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
    stored = checkpoint.rename_tensors(load_file(run / "state.safetensors"))
    for name, parameter in trainer.model.named_parameters():  # bit for bit
        adam = trainer.optimizer.state[parameter]
        assert torch.equal(parameter, stored[f"weight.{name}"]) and adam["step"] == 20
        assert torch.equal(trainer.average[name], stored[f"average.{name}"])
        assert all(torch.equal(adam[key], stored[f"adam.{key}.{name}"]) for key in ("exp_avg", "exp_avg_sq"))
    while trainer.step < trainer.steps:
        trainer.training_step()
    wanted = {checkpoint.rename_tensor(name): total for name, total in expected()["after_40_steps"].items()}
    assert trainer.step == 40 and trainer.average.keys() == wanted.keys()
    for name, value in trainer.average.items():
        # another processor rounds otherwise, and 20 steps make 2e-4 of that; a lost moment of Adam's makes 7e-2
        error = abs(value.double().sum().item() - wanted[name])
        assert error <= 5e-4 * value.double().abs().sum().item(), name
