"""Models to the Hub and back: what comes back predicts the same numbers, and nothing else is asked for."""

import pytest
import torch
from huggingface_hub import ModelCard
from support.models import seeing, tiny, zoomed

from locdiff import LocDiffusion, Pipeline
from locdiff.errors import InputError
from locdiff.model.card import NOT_STATED

NAME = "me/my-model"
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05")  # how torch.save and pickle begin


@pytest.mark.parametrize(
    "make", [seeing, lambda: zoomed(noise=0.5), lambda: tiny(loss="l2", whiten=0.0)], ids=["one level", "two", "l2"]
)
def test_a_model_that_was_pushed_predicts_the_same(make, stub_hub):
    model, embeddings = make(), torch.randn(3, 5)
    torch.nn.init.normal_(model.network.head.bias)
    assert NAME in model.push_to_hub(NAME)
    assert stub_hub.files[NAME].keys() == {"config.json", "model.safetensors", "README.md"}
    assert not any(data.startswith(PICKLES) for data in stub_hub.files[NAME].values())
    again = LocDiffusion.from_pretrained(NAME, "cpu")
    assert stub_hub.downloads() == ["config.json", "model.safetensors"]
    assert again.config == model.config and again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert Pipeline.from_pretrained(NAME, "cpu").predict(embeddings) == Pipeline(model).predict(embeddings)


def test_a_pickle_on_the_hub_is_not_downloaded(stub_hub):
    tiny().push_to_hub(NAME)
    stub_hub.files[NAME]["pytorch_model.bin"] = b"\x80\x04."
    LocDiffusion.from_pretrained(NAME, "cpu")
    assert stub_hub.downloads() == ["config.json", "model.safetensors"]
    del stub_hub.files[NAME]["model.safetensors"]
    with pytest.raises(InputError, match=r"model\.safetensors is missing"):
        LocDiffusion.from_pretrained(NAME, "cpu")


def test_what_was_downloaded_before_is_used_without_asking(stub_hub):
    tiny().push_to_hub(NAME)
    for options in ({}, {"local_files_only": True}):
        stub_hub.requests.clear()
        LocDiffusion.from_pretrained(NAME, "cpu", **options)
        assert bool(stub_hub.requests) == (not options)
    sha = stub_hub.sha(NAME)
    seeing().push_to_hub(NAME)
    old, new = (LocDiffusion.from_pretrained(NAME, "cpu", revision=revision) for revision in (sha, None))
    assert not old.network.head.weight.any() and new.network.head.weight.any()


def test_the_card_of_a_model_without_a_run_leaves_what_it_does_not_know_open(stub_hub):
    tiny().push_to_hub(NAME)
    card = ModelCard(stub_hub.files[NAME]["README.md"].decode())
    assert card.data.library_name == "locdiffusion" and card.data.eval_results is None
    assert f"| licence | {NOT_STATED} |" in card.text and "no scores" in card.text
    assert f'Pipeline.from_pretrained("{NAME}")' in card.text and "wang2025locdiff" in card.text


def test_a_private_model_is_private_or_not_written(stub_hub):
    tiny().push_to_hub(NAME, private=True)
    assert stub_hub.private == {NAME}
    seeing().push_to_hub("me/public")
    before = dict(stub_hub.files["me/public"])
    with pytest.raises(InputError, match="me/public is there already and public: make it private"):
        tiny().push_to_hub("me/public", private=True)
    assert stub_hub.files["me/public"] == before


@pytest.mark.parametrize("name", ["my-model", "me/my/model", "/my-model", "me/", "", "me/my model", "../x/y", "me/ü"])
def test_what_is_no_name_on_the_hub_is_refused_before_anything_is_asked(name, stub_hub):
    with pytest.raises(InputError, match="is no name on the Hugging Face Hub: give OWNER/NAME"):
        tiny().push_to_hub(name)
    assert stub_hub.requests == []


def test_a_token_is_needed_and_the_hub_must_take_it(stub_hub, monkeypatch):
    with pytest.raises(InputError, match=r"cannot write to me/my-model .*401.*the token") as error:
        tiny().push_to_hub(NAME, token="hf_wrong")
    assert "\n" not in str(error.value) and stub_hub.files == {}
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="there is no token of the Hugging Face Hub: set HF_TOKEN"):
        tiny().push_to_hub(NAME)


def test_without_a_network_there_is_one_line(stub_hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(InputError, match=r"cannot write to me/my-model .*: .*see that there is a network"):
        tiny().push_to_hub(NAME)
    with pytest.raises(InputError, match="me/my-model is neither a folder nor a model that can be had") as error:
        LocDiffusion.from_pretrained(NAME, "cpu")
    assert "\n" not in str(error.value)
