"""From a table of texts to embeddings, a model, its predictions of words, and the page."""

import csv
import json

import numpy as np
import pytest
from support.commands import outcome

from locdiff import embed, predict, train
from locdiff.data import encoding
from locdiff.data.embeddings import read_embeddings
from locdiff.data.encoders import make_encoder
from locdiff.data.text_encoders import NgramEncoder
from locdiff.errors import InputError
from locdiff.pipeline import Pipeline

TOWNS = {
    "Bern": (46.95, 7.45), "San José": (9.93, -84.08), "東京": (35.68, 139.69), "Nairobi": (-1.29, 36.82),
    "Perth, Australia": (-31.95, 115.86), "Reykjavík": (64.15, -21.94), "Lima": (-12.05, -77.04),
    "Anchorage": (61.22, -149.9),
}  # fmt: skip
NGRAMS = ["--encoder", "ngrams:128", "--device", "cpu"]


def table(path, rows, header=("id", "text", "lat", "lon")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with the towns' table, their embeddings, and a run that learnt them."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [[f"t{i}", name, *place] for i, (name, place) in enumerate(TOWNS.items())]
    embed.main([str(table(folder / "towns.csv", rows)), str(folder / "data"), *NGRAMS])
    (folder / "split").mkdir()
    for part in ("train", "test"):
        (folder / "split" / part).symlink_to(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "report", lambda *_: None)
        train.main([
            "--preset", "smoke", "--data", str(folder / "split"), "--out", str(folder / "run"), "--steps", "200",
            "--batch", "32", "--lr", "0.005", "--validation", "0", "--device", "cpu",
        ])  # fmt: skip
    return folder


def test_texts_are_embedded_with_their_ids_places_and_words(world):
    data = read_embeddings(world / "data")
    assert data.encoder == "ngrams:128" and data.texts == list(TOWNS) and data.ids == [f"t{i}" for i in range(8)]
    np.testing.assert_allclose(data.lat_lon, list(TOWNS.values()))
    expected = make_encoder("ngrams:128").encode_text(list(TOWNS))
    np.testing.assert_allclose(data.batch(range(8))[0], expected, atol=1e-3)
    meta = json.loads((world / "data" / "meta.json").read_text())
    assert (meta["texts"], meta["failed"], meta["preprocessing"][:3]) == (8, 0, "NFC")


def test_empty_texts_fail_by_name_and_equal_ones_are_embedded_once(tmp_path, capsys, monkeypatch):
    rows = [["Bern", 46.9, 7.4], ["", 1, 2], ["Lima", "", ""], ["Bern", 41.6, -94.7], ["  ", 3, 4]]
    source, asked, encode = table(tmp_path / "t.csv", rows, ("text", "lat", "lon")), [], NgramEncoder.encode_text
    monkeypatch.setattr(NgramEncoder, "encode_text", lambda self, texts: asked.append(texts) or encode(self, texts))
    monkeypatch.setattr(encoding, "TEXTS", 1)
    code, said = outcome(embed.main, [str(source), str(tmp_path / "out"), *NGRAMS], capsys)
    assert code == 2 and asked == [["Bern"], ["Lima"]]
    assert "found 5 texts\nused 3\nfailed 2: 2 (the text is empty), 5 (the text is empty)" in "\n".join(said)
    assert said[-1].startswith("error: 2 texts failed; ")
    data = read_embeddings(tmp_path / "out", with_places=False)
    assert data.ids == ["1", "3", "4"] and data.texts == ["Bern", "Lima", "Bern"]
    assert np.isnan(data.lat_lon[1]).all() and data.lat_lon[2].tolist() == [41.6, -94.7]
    assert np.array_equal(data.embeddings[0], data.embeddings[2])


def test_a_stopped_run_goes_on_and_embeds_the_rest_only(tmp_path, monkeypatch):
    rows, asked, encode = [[f"place {i % 5}"] for i in range(9)], [], NgramEncoder.encode_text
    source = table(tmp_path / "t.csv", rows, ("text",))

    def stop_at_the_third(self, texts):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(texts)
        return encode(self, texts)

    monkeypatch.setattr(encoding, "TEXTS", 1)
    encoder = make_encoder("ngrams:16")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(NgramEncoder, "encode_text", stop_at_the_third)
        encoding.embed_texts(source, tmp_path / "out", encoder)
    table(tmp_path / "other.csv", [*rows[:8], ["place 5"]], ("text",))
    with pytest.raises(InputError, match="begun with other pictures or texts"):
        encoding.embed_texts(tmp_path / "other.csv", tmp_path / "out", encoder)
    monkeypatch.setattr(NgramEncoder, "encode_text", lambda self, texts: asked.append(texts) or encode(self, texts))
    encoding.embed_texts(source, tmp_path / "out", encoder)
    assert asked == [[f"place {i}"] for i in range(5)]
    found = read_embeddings(tmp_path / "out", with_places=False)
    expected = encode(encoder, [row[0] for row in rows])
    np.testing.assert_allclose(found.batch(range(9))[0], expected, atol=1e-3)


def test_two_processes_share_the_texts(tmp_path, monkeypatch):
    source, out = table(tmp_path / "t.csv", [["a"], ["b"], [""], ["c"], ["b"]], ("text",)), tmp_path / "out"
    encoder = make_encoder("ngrams:16")
    encoding.Progress(out, encoding.progress_key([*"12345", "a", "b", "", "c", "b"], encoder.name), 5, True)
    asked, encode = [], NgramEncoder.encode_text
    monkeypatch.setattr(NgramEncoder, "encode_text", lambda self, texts: asked.append(texts) or encode(self, texts))
    assert encoding.embed_texts(source, out, encoder, rank=1, world=2) is None
    assert asked == [["b"]]
    assert encoding.embed_texts(source, out, encoder, rank=0, world=2)["texts"] == 4
    assert asked == [["b"], ["a", "c"]]
    found = read_embeddings(out, with_places=False)
    np.testing.assert_allclose(found.batch(range(4))[0], encoder.encode_text(["a", "b", "c", "b"]), atol=1e-3)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (("id", "lat", "lon"), [[1, 2, 3]], r"t\.csv: no column for text in the header"),
        (("text",), [], r"t\.csv holds no texts"),
        (("id", "text"), [[1, "a"], [1, "b"]], "the id '1' stands on 2 lines"),
        (("text", "lat", "lon"), [["a", 1, 2], ["b", "x", 3]], "line 3: the place is missing or not a number"),
        (("text", "lat", "lon"), [["a", 100, 2]], "is no .lat, lon. in degrees"),
    ],
)
def test_a_wrong_table_of_texts_is_refused(tmp_path, header, rows, message):
    with pytest.raises(InputError, match=message):
        embed.main([str(table(tmp_path / "t.csv", rows, header)), str(tmp_path / "out"), *NGRAMS])
    with pytest.raises(InputError, match="leave out --places and --columns"):
        embed.main([str(tmp_path / "t.csv"), str(tmp_path / "out"), *NGRAMS, "--places", "p.csv"])


def predicted(capsys, argv):
    predict.main([*argv, "--samples", "0", "--device", "cpu"])
    return list(csv.DictReader(capsys.readouterr().out.splitlines()))


def test_words_are_located_from_the_command_line_a_table_and_python(world, tmp_path, capsys):
    run = str(world / "run")
    rows = predicted(capsys, [run, *(part for name in TOWNS for part in ("--text", name))])
    assert [row["id"] for row in rows] == list(TOWNS)
    near = [abs(float(row["lat"]) - TOWNS[row["id"]][0]) < 15 for row in rows]
    assert sum(near) >= 7  # learnt by heart
    by_id = predicted(capsys, [run, str(world / "towns.csv")])
    assert [row["id"] for row in by_id] == [f"t{i}" for i in range(8)]
    assert [row["lat"] for row in by_id] == [row["lat"] for row in rows]
    without = table(tmp_path / "words.csv", [[name] for name in TOWNS], ("text",))
    assert [row["id"] for row in predicted(capsys, [run, str(without), "--batch", "3"])] == list(TOWNS)
    rounded = predicted(capsys, [run, str(world / "data")])  # to float16
    assert [float(row["lat"]) for row in rounded] == pytest.approx([float(row["lat"]) for row in rows], abs=0.1)
    direct = Pipeline.from_pretrained(run, "cpu").predict(list(TOWNS), samples=0)
    assert [one.places[0][0] for one in direct] == pytest.approx([float(row["lat"]) for row in rows], abs=1e-3)
    [alone] = Pipeline.from_pretrained(run, "cpu").predict("Bern", samples=0)
    assert alone.places[0] == pytest.approx(direct[0].places[0], abs=1e-3)


def test_empty_texts_of_a_table_are_named_and_the_others_go_on(world, tmp_path, capsys):
    source = table(tmp_path / "t.csv", [["a", "Bern"], ["b", ""], ["c", "Lima"]], ("id", "text"))
    out = tmp_path / "p.csv"
    argv = [str(world / "run"), str(source), "--samples", "0", "--out", str(out), "--device", "cpu", "--batch", "1"]
    code, said = outcome(predict.main, argv, capsys)
    assert code == 2 and "cannot read the text b: the text is empty" in said
    assert said[-1] == "error: 1 of 3 texts could not be read; the first: b"
    assert [row["id"] for row in csv.DictReader(out.read_text().splitlines())] == ["a", "c"]


def test_words_and_pictures_do_not_go_to_models_of_the_other(world, run, pictures, capsys):
    for argv, message in (
        (
            [str(world / "run"), pictures[0]],
            "this model is one of texts, by 'ngrams:128'; give --text or a csv of texts",
        ),
        (
            [str(run), "--text", "Bern"],
            "words need a model trained on CLIP embeddings or on texts; this one was trained",
        ),
        ([str(run), str(world / "towns.csv")], "words need a model trained on CLIP embeddings or on texts"),
    ):
        code, lines = outcome(predict.main, [*argv, "--device", "cpu"], capsys)
        assert code == 2 and len(lines) == 1 and message in lines[0]
    pipeline = Pipeline.from_pretrained(world / "run", "cpu")
    for wrong in ([" "], ["Bern", 3], [world / "towns.csv"]):
        with pytest.raises(InputError, match="is no text to locate; give words as a str"):
            pipeline.predict(wrong)


def test_the_page_and_the_map_show_the_words(world, tmp_path):
    argv = [str(world / "run"), "--text", "<b>Bern</b> $x", "--samples", "0", "--device", "cpu"]
    predict.main([*argv, "--html", str(tmp_path / "p.html"), "--map", str(tmp_path / "p.png")])
    text = (tmp_path / "p.html").read_text()
    assert '<blockquote class="words">&lt;b&gt;Bern&lt;/b&gt; $x</blockquote>' in text
    assert "Which place does this text mean?" in text and "texts as embeddings by ngrams:128" in text
    predict.main([str(world / "run"), str(world / "data"), "--html", str(tmp_path / "q.html"), *argv[3:]])
    text = (tmp_path / "q.html").read_text()
    assert '<blockquote class="words">Reykjavík</blockquote>' in text and "t5" in text
