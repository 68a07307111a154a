"""What make_all.py writes, says, compares and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import artefact
import make_all
import pytest
from artefact import Claim
from context import savez
from support.figures import is_png

from locdiff.errors import InputError

ROOT = Path(__file__).parents[2]
QUICK = ["figure_3", "table_3"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The output folder of a run of the script on the artefacts that take no time."""
    folder = tmp_path_factory.mktemp("figures") / "new" / "out"
    command = [sys.executable, "paper_figures/make_all.py", "--only", *QUICK, "--out", str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert all(f"{name}: computed in" in run.stdout for name in QUICK)
    assert "1 of 2 claims hold." in run.stdout and "13 of 13 claims hold." in run.stdout
    return folder


def test_artefacts_are_found_figures_first():
    names = list(make_all.ARTEFACTS)
    assert names == sorted(names) and len(names) == 17
    for module in make_all.ARTEFACTS.values():
        assert all(hasattr(module, name) for name in artefact.Artefact.__annotations__)


def test_a_new_file_is_a_new_artefact(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "table_a_new_one.py").write_text("TITLE = 'new'\n")
    (tmp_path / "figure_a_new_one.py").write_text("TITLE = 'drawn'\n")
    (tmp_path / "report_a_new_one.py").write_text("TITLE = 'no artefact'\n")
    found = artefact.find(tmp_path)
    assert {name: module.TITLE for name, module in found.items()} == {
        "figure_a_new_one": "drawn", "table_a_new_one": "new",
    }  # fmt: skip


def test_claims_are_counted_and_listed():
    claims = [Claim("it rises", "12", "13", True), Claim("it falls", "no number", "0", False)]
    assert artefact.summary(claims) == "1 of 2 claims hold"
    untold = Claim("it stays", "5", "unknown", None)
    assert artefact.summary([*claims, untold]) == "1 of 2 claims hold, 1 not tested"
    assert artefact.summary([untold]) == "1 not tested"
    assert artefact.table([*claims, untold]).splitlines() == [
        "| claim | paper | ours | holds |",
        "| --- | --- | --- | --- |",
        "| it rises | 12 | 13 | yes |",
        "| it falls | no number | 0 | no |",
        "| it stays | 5 | unknown | not tested |",
    ]


def test_the_index_shows_pictures_numbers_and_what_they_were_computed_from(out):
    assert {path.name for path in out.iterdir()} == {
        "index.md", "index.html", "figure_3.npz", "figure_3.png", "figure_3.md", "table_3.npz", "table_3.md",
    }  # fmt: skip
    index = (out / "index.md").read_text()
    assert "**1 of 2 claims hold.**" in index and "**13 of 13 claims hold.**" in index
    assert "| the bright region shrinks as L grows |" in index and "![figure 3](figure_3.png)" in index
    for text in ("| 15 | about 1300 | 1333 | 1767 | 419 |", "| 31 | about 640 | 645 | 882 | 104 |", "lat = 48.86"):
        assert text in index
    for text in ("| epochs | 500 | 500 | yes |", "| dimensions d at L = 31 | 1024 | 1024 | yes |", "scipy", "commit"):
        assert text in index
    assert "Not computed yet: `python paper_figures/make_all.py --only figure_4b`" in index
    assert "only show that the program runs" not in index
    assert is_png(out / "figure_3.png")
    page = (out / "index.html").read_text()
    assert '<img alt="figure 3" src="figure_3.png"' in page and "<td>1767</td>" in page
    assert all(f'href="#{name}' in page for name in make_all.ARTEFACTS)
    assert '<h3 id="claims">' in page and "<td>the bright region shrinks as L grows</td>" in page
    assert "python paper_figures/make_all.py --only table_4 --im2gps3k FILE" in page


def test_redraw_draws_again_without_computing(out, monkeypatch, capsys):
    for name in QUICK:
        monkeypatch.delattr(make_all.ARTEFACTS[name], "compute")
    before = (out / "index.md").read_text()
    (out / "figure_3.png").unlink()
    (out / "index.md").unlink()
    make_all.main(["--redraw", "--out", str(out)])
    assert (out / "figure_3.png").exists() and (out / "index.md").read_text() == before
    assert "figure_4b" not in capsys.readouterr().out


def test_what_another_version_computed_is_not_drawn(out, tmp_path):
    _, provenance = make_all.read("figure_3", out)
    savez(tmp_path / "figure_3.npz", {"provenance": json.dumps(provenance)})
    with pytest.raises(InputError, match=r"figure_3.npz lacks .* compute figure_3 again"):
        make_all.draw("figure_3", tmp_path)


def test_check_compares_with_the_expected_numbers(out, tmp_path, monkeypatch, capsys):
    def check(names=QUICK):
        return make_all.check(names, out), capsys.readouterr().out.splitlines()

    for _ in range(2):
        code, said = check()
        assert code == 0 and said == ["2 artefacts agree with the expected numbers"]
    expected = json.loads(make_all.EXPECTED.read_text())
    monkeypatch.setattr(make_all, "EXPECTED", tmp_path / "expected.json")
    expected["figure_3, scale any"]["width at L = 23"] += 0.6
    expected["table_3, scale any"]["a number of the past"] = 1.0
    make_all.EXPECTED.write_text(json.dumps(expected))
    code, said = check()
    assert code == 1 and "width at L = 23 is 185.29" in said[-2] and "a number of the past is None" in said[-1]
    del expected["table_3, scale any"]
    make_all.EXPECTED.write_text(json.dumps(expected))
    code, said = check()
    assert code == 1 and "no expected numbers to compare with: table_3" in said
    make_all.accept(QUICK, out)
    assert check()[0] == 0 and "figure_4b, scale any" in json.loads(make_all.EXPECTED.read_text())


def test_the_command_accepts_and_checks(out, tmp_path, monkeypatch):
    monkeypatch.setattr(make_all, "EXPECTED", tmp_path / "expected.json")
    command = ["--redraw", "--check", "--only", "table_3", "--out", str(out)]
    make_all.EXPECTED.write_text(json.dumps({"table_3, scale any": {"epochs": 1}}))
    for more, code in ([], 1), (["--accept"], 0), ([], 0):
        with pytest.raises(SystemExit) as stop:
            make_all.main([*command, *more])
        assert stop.value.code == code


def test_list_names_everything_and_says_what_is_computed(out, capsys):
    make_all.main(["--list", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(make_all.ARTEFACTS)
    assert {line.split()[0] for line in lines if line.split()[1] == "computed"} == set(QUICK)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--only", "figure_9"], ["figure_9", *make_all.ARTEFACTS]),
        (["--redraw"], ["not computed", *make_all.ARTEFACTS]),
        (["--redraw", "--only", "figure_4b"], ["not computed", "figure_4b"]),
        (["--out", __file__], ["cannot make the output folder"]),
        (["--only", "table_4", "--im2gps3k", ""], ["table_4 needs --im2gps3k"]),
        (["--scale", "huge"], ["smoke", "cpu", "paper"]),
    ],
)
def test_what_cannot_be_done_is_said_on_one_line(argv, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        make_all.main(["--out", str(tmp_path), *argv])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and all(part in lines[0] for part in said)


@pytest.mark.parametrize("scale", make_all.SCALES)
def test_every_artefact_has_every_scale(scale):
    for name, module in make_all.ARTEFACTS.items():
        for sizes in ("SCALES", "DEGREES", "PLACES"):
            found = getattr(module, sizes, {})
            assert not isinstance(found, dict) or not found or scale in found, (name, sizes)
