"""Encoders by their names: the registry, an open_clip model of random weights, and what cannot be had."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.clip import MODEL, random_weights
from support.embeddings import write_folder
from support.encoders import Brightness

from locdiff.data import blue_marble, encoders
from locdiff.data.embeddings import read_embeddings
from locdiff.data.encoders import encoder_of, make_encoder
from locdiff.errors import InputError
from locdiff.files import canonical_encoder
from locdiff.model.checkpoint import config_from_record
from locdiff.model.config import ModelConfig


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return random_weights(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(weights):
    return make_encoder(f"open_clip:{MODEL}", str(weights))


def test_an_encoder_is_found_by_the_prefix_of_its_name(monkeypatch):
    monkeypatch.setitem(encoders.ENCODERS, "brightness", Brightness)
    made = make_encoder("brightness:of/all:three", "w.pt", "meta")
    assert isinstance(made, Brightness) and made.name == "brightness:of/all:three" and made.made_of == ("w.pt", "meta")
    made = make_encoder("brightness")
    assert made.name == "brightness" and made.made_of == (None, "cpu")
    assert encoder_of(ModelConfig(encoder="brightness:x"), "w.pt").made_of == ("w.pt", "cpu")


@pytest.mark.parametrize("name", ["brightness:x", "unknown", "", "Thumbnail-16", "openclip:ViT-L-14/openai"])
def test_an_encoder_that_is_not_known_is_named(name):
    with pytest.raises(InputError, match=f"'{name}' is no encoder that this program knows .thumbnail-16, open_clip"):
        make_encoder(name)


def test_the_name_of_a_clip_from_a_file_tells_its_weights_apart(weights, clip):
    assert clip.name.startswith(f"open_clip:{MODEL}/random-") and clip.dim == 24
    digest = clip.name.rsplit("-", 1)[1]
    assert len(digest) == 12 and set(digest) <= set("0123456789abcdef")
    changed = weights.with_name("other.safetensors")
    save_file(clip.model.state_dict() | {"logit_scale": torch.tensor(1.0)}, changed)
    other = make_encoder(f"open_clip:{MODEL}", str(changed))
    assert other.name.startswith(f"open_clip:{MODEL}/other-") and not other.name.endswith(digest)


def test_clip_embeds_pictures_and_words_as_open_clip_does(clip):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8))
    batch = torch.stack([clip.prepare(picture), clip.prepare(picture.rotate(90))])
    found = clip.encode(batch)
    assert found.shape == (2, 24) and found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found, clip.model.encode_image(batch))
    words = ["a street in Lisbon", "snow"]
    torch.testing.assert_close(clip.encode_text(words), clip.model.encode_text(open_clip.get_tokenizer(MODEL)(words)))
    assert not torch.allclose(*clip.encode_text(words))


def test_weights_that_cannot_be_had_name_the_remedy(tmp_path):
    for details, file in (
        ("no-such-model/openai", None),
        ("ViT-S-32/laion2b", None),
        ("ViT-S-32", tmp_path / "absent.pt"),
    ):
        with pytest.raises(InputError, match=r"cannot get the weights .*--weights FILE") as error:
            make_encoder(f"open_clip:{details}", file and str(file))
        assert details.split("/")[0] in str(error.value)


@pytest.mark.parametrize("name", ["open_clip", "open_clip:", f"open_clip:{MODEL}", f"open_clip:{MODEL}/"])
def test_no_encoder_has_random_weights(name):
    with pytest.raises(InputError, match=r"names no weights: give open_clip:MODEL/TAG, or .* --weights FILE"):
        make_encoder(name)


def test_other_weights_than_the_models_are_refused(weights, clip):
    assert encoder_of(ModelConfig(encoder=clip.name, embed_dim=24), str(weights)).name == clip.name
    config = ModelConfig(encoder=f"open_clip:{MODEL}/random-0123456789ab", embed_dim=24)
    with pytest.raises(InputError, match=f"by '{clip.name}', but this model was trained on .*random-0123456789ab"):
        encoder_of(config, str(weights))


def test_the_thumbnail_is_of_the_central_square():
    """Red in the middle of a wide picture, blue on both sides: the square is red, as in a Blue Marble view of it."""
    picture = Image.new("RGB", (96, 32), "blue")
    picture.paste((255, 0, 0), (32, 0, 64, 32))
    encoder = make_encoder("thumbnail-16")
    batch = encoder.prepare(picture)[None]
    assert batch.shape == (1, 3, 16, 16) and (batch == torch.tensor([1.0, 0, 0]).view(3, 1, 1)).all()
    torch.testing.assert_close(encoder.encode(batch), blue_marble.thumbnail_embeddings(batch))
    assert encoder.encode(batch).shape == (1, encoder.dim) and encoder.name == "thumbnail-16"
    for wrong in (("thumbnail-16:32", None), ("thumbnail-16", "w.pt")):
        with pytest.raises(InputError, match="takes no details and no weights"):
            make_encoder(*wrong)


OLD_AND_NEW = [
    ("ViT-L-14/openai", "open_clip:ViT-L-14/openai+gelu"),
    (f"{MODEL}/random-0123456789ab", f"open_clip:{MODEL}/random-0123456789ab"),
    ("open_clip:ViT-L-14/openai", "open_clip:ViT-L-14/openai"),
    ("timm:vit/tag", "timm:vit/tag"),
    ("thumbnail-16", "thumbnail-16"),
    ("unknown", "unknown"),
    ("google/siglip", "google/siglip"),
    ("simulated queries from GeoCLIP's location encoder", "simulated queries from GeoCLIP's location encoder"),
]


@pytest.mark.parametrize(("old", "new"), OLD_AND_NEW)
def test_names_without_a_prefix_are_still_read(old, new, tmp_path):
    """From the meta.json of embeddings, and from the flat configuration of a model of format 3."""
    folder = write_folder(tmp_path / "a", np.ones((1, 4), np.float16), ["a,1,2"], json.dumps({"encoder": old}))
    assert read_embeddings(folder).encoder == canonical_encoder(old) == new
    assert config_from_record({"encoder": old, "embed_dim": 4}).encoder == new


def test_an_encoder_is_made_by_its_name_without_a_prefix(clip, weights):
    assert make_encoder(f"{MODEL}/random-0123456789ab", str(weights)).name == clip.name
