"""From pictures and words to predictions: a model, and the encoder that its embeddings are by."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.calls import count_calls
from support.encoders import Brightness, BrightnessOfWords
from support.models import seeing

from locdiff.data import encoders
from locdiff.errors import InputError
from locdiff.pipeline import Pipeline


@pytest.fixture
def files(tmp_path):
    """Three pictures of one color each."""
    for name, color in (("red.png", (255, 0, 0)), ("grey.png", (128, 128, 128)), ("sea.png", (10, 30, 90))):
        Image.new("RGB", (9, 6), color).save(tmp_path / name)
    return [tmp_path / "red.png", str(tmp_path / "grey.png"), tmp_path / "sea.png"]


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """A saved model on the embeddings of an encoder that a user has added, loaded."""
    monkeypatch.setitem(encoders.ENCODERS, "brightness", Brightness)
    seeing(encoder="brightness", embed_dim=3, sample_steps=1).save_pretrained(tmp_path / "run")
    return Pipeline.from_pretrained(tmp_path / "run", "cpu", weights="w.pt")


def test_pictures_are_predicted_by_their_embeddings(pipeline, files):
    embeddings = pipeline.embed(files)
    expected = torch.tensor([[255, 0, 0], [128, 128, 128], [10, 30, 90]]) / 255
    torch.testing.assert_close(embeddings, expected)
    from_files, from_array = pipeline.predict(files, samples=2), pipeline.predict(embeddings.numpy(), samples=2)
    assert from_files == from_array == pipeline.predict(embeddings, samples=2) and len(from_files) == 3
    assert len({str(one.places) for one in from_files}) == 3
    read_only = np.broadcast_to(embeddings.numpy(), (3, 3))
    assert not read_only.flags.writeable and pipeline.predict(read_only, samples=2) == from_array
    np.testing.assert_allclose(pipeline.predict(files[:1])[0].places, from_files[0].places, atol=1e-3)


def test_pictures_are_encoded_once_by_one_encoder(pipeline, files, monkeypatch):
    made = count_calls(monkeypatch, encoders.ENCODERS["brightness"], "__init__")
    assert pipeline.__dict__.keys() == {"model", "weights"} and not made
    pipeline.predict(files, samples=2, top_k=3)
    assert len(made) == 1 and pipeline.encoder.encoded == [3]
    pipeline.predict(files[:2])
    assert len(made) == 1 and pipeline.encoder.encoded == [3, 2] and pipeline.encoder.made_of[0] == "w.pt"


def test_embeddings_need_no_encoder(pipeline, monkeypatch):
    monkeypatch.delitem(encoders.ENCODERS, "brightness")
    [prediction] = pipeline.predict(torch.zeros(1, 3))
    assert prediction.places
    with pytest.raises(InputError, match="'brightness' is no encoder that this program knows"):
        pipeline.predict(["a.png"])


def test_a_file_that_is_no_picture_is_named(pipeline, files, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"cannot read the picture .*notes.txt: not a picture"):
        pipeline.predict([files[0], tmp_path / "notes.txt"])
    assert pipeline.predict([]) == []


def test_words_need_an_encoder_of_words(pipeline, monkeypatch):
    with pytest.raises(InputError, match=r"words need a model trained on CLIP .*this one was trained on 'brightness'"):
        pipeline.embed_text(["a street in Lisbon"])
    monkeypatch.setitem(encoders.ENCODERS, "brightness", BrightnessOfWords)
    reader = Pipeline(pipeline.model)
    torch.testing.assert_close(reader.embed_text(["snow", "sea"]), torch.tensor([[4.0, 0, 1], [3.0, 0, 1]]))
    assert len(reader.predict(reader.embed_text(["snow"]))[0].places) == 1


def test_a_run_that_there_is_not_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere/config.json is missing"):
        Pipeline.from_pretrained(tmp_path / "nowhere")
