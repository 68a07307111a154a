"""Results that are kept, and the documents' tables, which are written from them and never by hand."""

import json
import re

import artefact
import publish
import pytest
from artefact import Claim
from support.figures import make

from locdiff.errors import InputError


def test_the_documents_show_what_docs_results_has():
    """To mend it: python paper_figures/publish.py."""
    kept = publish.read_results()
    for path in publish.DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        blocks = [(found[2], found[0]) for found in publish.BLOCK.finditer(text)]
        assert text.count("<!-- results: ") == len(blocks)
        for name, block in blocks:
            assert publish.block_text(name, kept) in block, (path, name)


def test_every_kept_result_says_what_it_is_from():
    for name, record in publish.read_results().items():
        assert record["versions"]["commit"] and not record["versions"]["commit"].endswith("-dirty"), name
        assert record["machine"] and record["seconds"] > 0 and record["settings"], name
        assert not re.search(r"/(home|work|tmp|root)/", json.dumps(record)), name


def test_what_was_computed_is_kept_and_shown(tmp_path):
    out = make(tmp_path / "out", "table_3")
    publish.keep(["table_3"], out, tmp_path / "results")
    kept = publish.read_results(tmp_path / "results")
    assert kept["table_3"]["claims"][0]["holds"] is True and "The values of the paper" in kept["table_3"]["text"]
    document = tmp_path / "doc.md"
    document.write_text("before\n<!-- results: table_3 -->\nstale\n<!-- end of results -->\nafter <!-- results: x\n")
    assert publish.write_documents([document], tmp_path / "results") == [document]
    text = document.read_text()
    assert text.startswith("before\n<!-- results: table_3 -->\n") and text.endswith("after <!-- results: x\n")
    assert "stale" not in text and "The values of the paper" in text and "Computed from" in text
    assert publish.write_documents([document], tmp_path / "results") == []
    document.write_text("<!-- results: claims -->\n<!-- end of results -->\n")
    publish.write_documents([document], tmp_path / "results")
    assert document.read_text().count("\n| ") == 2  # no claim of Table 3 is a main one
    path = tmp_path / "results" / "table_3.json"
    record = json.loads(path.read_text())
    record["claims"][0] |= {"data": "Views", "brief": "512"}
    path.write_text(json.dumps(record))
    publish.write_documents([document], tmp_path / "results")
    assert document.read_text().count("\n| ") == 3 and "| yes: 512 |" in document.read_text()
    document.write_text("<!-- results: table_9 -->\n<!-- end of results -->\n")
    with pytest.raises(InputError, match="table_9, which is not kept; there are table_3"):
        publish.write_documents([document], tmp_path / "results")


def test_a_claim_has_one_row_and_a_cell_for_each_data_set():
    claims = [
        Claim("it is ahead", "5 %", "long", True, "Names", "+3.1 / +2.0"),
        Claim("a detail", "", "long", True),
        Claim("it is ahead", "5 %", "long", False, "Views", "-1.0"),
        Claim("it is small", "no", "long", None, "Views", "7"),
    ]
    rows = [line.strip("| ").split(" | ") for line in artefact.main_table(claims).splitlines()]
    assert rows[0] == ["claim", "paper", "Names", "Views"]
    assert rows[2:] == [["it is ahead", "5 %", "yes: +3.1 / +2.0", "no: -1.0"],
                        ["it is small", "no", "", "not tested: 7"]]  # fmt: skip
    assert "Names: it is ahead" in artefact.table(claims) and "| a detail |" in artefact.table(claims)


def test_the_scores_of_a_run_are_kept_with_what_they_are_from(tmp_path):
    row = {"accuracy": {str(k): 10.0 for k in (1, 25, 200, 750, 2500)}, "median_km": 54.4}
    metrics = {
        "kind": "texts", "training_pictures": 1234, "held_out": 50, "seed": 0, "data": "names", "seconds": 3.0,
        "rows": {"LocDiffusion, one sample (DDIM, 1 step)": row, "Chance: the place of a random training text": row,
                 "another": row},
        "one_pass_density": {"nats_over_uniform": 4.5, "coverage_50": [51, 48, 54], "coverage_90": [90, 88, 92]},
        "settings": {"training": {"steps": 4000, "batch": 256, "seed": 0}}, "versions": {"commit": "abc", "torch": "2"},
        "device": "cpu",
    }  # fmt: skip
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "metrics.json").write_text(json.dumps(metrics))
    publish.keep_run(tmp_path / "mine", tmp_path / "results")
    kept = publish.read_results(tmp_path / "results")
    text = publish.block_text("mine", kept)
    whole = publish.block_text("mine-all", kept)
    assert "\n| another | 10.0 | 10.0 | 10.0 | 10.0 | 10.0 | 54 |\n" in whole and "commit abc" in whole
    assert "| LocDiffusion, one sample | 10.0 | 10.0 | 10.0 | 10.0 | 10.0 | 54 |" in text and "another" not in text
    assert "Chance: the location of a random training text" in text and "4.50 nats" in text
    words = " ".join(text.split())
    assert "51.0 % of the texts (95 % interval 48.0 to 54.0)" in words and "commit abc" in words
    with pytest.raises(InputError, match="train the run to its end"):
        publish.keep_run(tmp_path / "none", tmp_path / "results")
    (tmp_path / "mine" / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match="cannot read the scores"):
        publish.keep_run(tmp_path / "mine", tmp_path / "results")


def test_what_was_not_computed_is_not_kept(tmp_path, capsys):
    with pytest.raises(SystemExit):
        publish.main(["--only", "table_3", "--out", str(tmp_path)])
    assert "not computed in" in capsys.readouterr().err
