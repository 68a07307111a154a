"""The encoder is the one that was asked for: network and preprocessing as in `transformers`, by the same weights.

OpenAI's weights were trained with QuickGELU, which is the default of transformers.CLIPModel and not of open_clip.
"""

import json
import warnings

import numpy as np
import open_clip
import pytest
import torch
import transformers
from PIL import Image
from support.clip import CONFIG, MODEL, random_weights
from support.embeddings import write_folder

from locdiff.data import encoders
from locdiff.data.embeddings import read_embeddings, train_and_test
from locdiff.data.encoders import encoder_of, make_encoder
from locdiff.errors import InputError
from locdiff.files import canonical_encoder
from locdiff.model.config import ModelConfig

OPENAI = dict(open_clip.get_pretrained_cfg("ViT-L-14", "openai"))


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """The small model's file; open_clip knows its tag `openai` as it knows that of ViT-L-14, and `laion` without."""
    known = {"openai": OPENAI, "laion": {**OPENAI, "quick_gelu": False}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, MODEL, known)
    return str(random_weights(tmp_path))


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    sizes = ((50, 70), (33, 32), (64, 200))
    return [Image.fromarray(rng.integers(0, 255, (*size, 3)).astype(np.uint8)) for size in sizes]


def hugging_face(visual, activation):
    """The vision tower of transformers with the weights of open_clip's."""
    c = CONFIG["vision_cfg"]
    config = transformers.CLIPVisionConfig(
        hidden_size=c["width"], intermediate_size=4 * c["width"], num_hidden_layers=c["layers"],
        num_attention_heads=c["width"] // c["head_width"], image_size=c["image_size"], patch_size=c["patch_size"],
        projection_dim=CONFIG["embed_dim"], **activation,
    )  # fmt: skip
    model, ours, theirs = transformers.CLIPVisionModelWithProjection(config).eval(), visual.state_dict(), {}
    same = {
        "conv1.weight": "embeddings.patch_embedding.weight", "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight", "ln_pre": "pre_layrnorm",
        "ln_post": "post_layernorm",
    }  # fmt: skip
    parts = {
        "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }  # fmt: skip
    for i in range(c["layers"]):
        same |= {f"transformer.resblocks.{i}.{a}": f"encoder.layers.{i}.{b}" for a, b in parts.items()}
        for kind in ("weight", "bias"):
            three = ours.pop(f"transformer.resblocks.{i}.attn.in_proj_{kind}").chunk(3)
            for name, value in zip("qkv", three, strict=True):
                theirs[f"vision_model.encoder.layers.{i}.self_attn.{name}_proj.{kind}"] = value
    theirs["visual_projection.weight"] = ours.pop("proj").T
    for name, value in ours.items():
        stem = next(a for a in same if name == a or name.startswith(f"{a}."))
        theirs["vision_model." + same[stem] + name[len(stem) :]] = value
    left = model.load_state_dict(theirs, strict=False)
    assert not left.unexpected_keys and all("position_ids" in name for name in left.missing_keys)
    return model


@pytest.mark.parametrize(("tag", "activation"), [("openai", {}), ("laion", {"hidden_act": "gelu"})])
def test_embeddings_are_those_of_transformers(weights, pictures, tag, activation):
    encoder = make_encoder(f"open_clip:{MODEL}/{tag}", weights)
    batch = torch.stack([encoder.prepare(picture) for picture in pictures])
    reference = hugging_face(encoder.model.visual, activation)
    with torch.no_grad():
        expected = reference(pixel_values=batch).image_embeds
    torch.testing.assert_close(encoder.encode(batch), expected, rtol=0, atol=1e-4)
    other = "laion" if tag == "openai" else "openai"
    assert (make_encoder(f"open_clip:{MODEL}/{other}", weights).encode(batch) - expected).abs().max() > 1e-3


def test_the_preprocessing_is_that_of_transformers(weights, pictures):
    """Bicubic with antialias to the shorter side, the central square, OpenAI's mean and standard deviation."""
    side = CONFIG["vision_cfg"]["image_size"]
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    encoder = make_encoder(f"open_clip:{MODEL}/openai", weights)
    for picture in pictures:
        expected = processor(images=picture, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(encoder.prepare(picture), expected, rtol=0, atol=1e-4)


def test_what_changes_embeddings_is_said(weights):
    quick, plain = (make_encoder(f"open_clip:{MODEL}/{tag}", weights) for tag in ("openai", "laion"))
    assert quick.about["activation"] == "QuickGELU" and plain.about["activation"] == "the model's own"
    assert quick.about["image_size"] == [32, 32] and quick.about["precision"] == "float32"
    assert "bicubic" in quick.about["preprocessing"] and "0.48145466" in quick.about["preprocessing"]
    assert quick.name.startswith(f"open_clip:{MODEL}/openai@random-") and quick.name != plain.name


def test_an_encoder_is_found_again_by_its_name_and_its_file(weights):
    name = make_encoder(f"open_clip:{MODEL}/openai", weights).name
    again = encoder_of(ModelConfig(encoder=name), weights)
    assert again.name == name and again.about["activation"] == "QuickGELU"
    with pytest.raises(InputError, match="came from a file: give it by --weights FILE"):
        make_encoder(name)


def test_a_mismatch_that_open_clip_warns_of_is_an_error(weights, monkeypatch):
    def warn(*_, **__):
        warnings.warn("QuickGELU mismatch between final model config and pretrained tag", stacklevel=2)

    monkeypatch.setattr(open_clip, "create_model_and_transforms", warn)
    with pytest.raises(InputError, match="were not trained with the activation"):
        make_encoder(f"open_clip:{MODEL}/openai", weights)


def test_other_warnings_are_heard(weights, monkeypatch):
    create = open_clip.create_model_and_transforms

    def warn(*arguments, **options):
        warnings.warn("something else", stacklevel=2)
        return create(*arguments, **options)

    monkeypatch.setattr(open_clip, "create_model_and_transforms", warn)
    with pytest.warns(UserWarning, match="something else"):
        make_encoder(f"open_clip:{MODEL}/openai", weights)


def test_embeddings_from_before_the_activation_was_right_have_another_name():
    assert canonical_encoder("ViT-L-14/openai") == "open_clip:ViT-L-14/openai+gelu"
    assert canonical_encoder("ViT-L-14-quickgelu/openai") == "open_clip:ViT-L-14-quickgelu/openai"
    assert canonical_encoder("ViT-B-32/laion2b_s34b_b79k") == "open_clip:ViT-B-32/laion2b_s34b_b79k"
    with pytest.raises(InputError, match=r"by 'open_clip:ViT-L-14/openai\+gelu', but this model was trained on"):
        ModelConfig(encoder="open_clip:ViT-L-14/openai").check_encoder(canonical_encoder("ViT-L-14/openai"))


def test_a_folder_of_other_embeddings_is_not_mixed_in(tmp_path):
    rows = np.ones((1, 4), np.float16)
    about = {"encoder": "open_clip:a/b", "activation": "QuickGELU", "preprocessing": "this", "precision": "float32"}
    for name, changes in (("train", {}), ("test", {"precision": "float16 by autocast"})):
        write_folder(tmp_path / name, rows, ["a,1,2"], json.dumps(about | changes))
    train, test = train_and_test(tmp_path, 0)
    assert len(train) == len(test) == 1 and read_embeddings(tmp_path / "train").about["activation"] == "QuickGELU"
    for key, value in (("activation", "GELU"), ("encoder", "open_clip:a/c"), ("preprocessing", "other")):
        (tmp_path / "test" / "meta.json").write_text(json.dumps(about | {key: value}))
        with pytest.raises(InputError, match=rf"{key}.*{value}"):
            train_and_test(tmp_path, 0)


def test_timm_models_are_encoders_too(tmp_path, pictures):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("test_vit", pretrained=False, num_classes=10).eval()
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    encoder = make_encoder("timm:test_vit", str(tmp_path / "vit.safetensors"))
    batch = torch.stack([encoder.prepare(picture) for picture in pictures])
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(batch), pre_logits=True)
    torch.testing.assert_close(encoder.encode(batch), expected)
    assert encoder.dim == expected.shape[1] and encoder.name.startswith("timm:test_vit@vit-")
    assert encoder_of(ModelConfig(encoder=encoder.name), str(tmp_path / "vit.safetensors")).name == encoder.name
    with pytest.raises(InputError, match=r"cannot get the weights of timm:no_such_model.*--weights FILE"):
        make_encoder("timm:no_such_model")
    assert encoders.ENCODERS["timm"] is encoders.TimmEncoder
