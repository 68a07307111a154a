"""A run is published with a card that is written from it, or else the command says why not in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from support.commands import outcome, succeed
from support.hub import TOKEN, serve

from locdiff import LocDiffusion, publish
from locdiff.evaluation.run_card import facts_of
from locdiff.model.card import NOT_STATED, model_card
from locdiff.training.settings import override, read_settings

NAME = "me/my-model"
FILES = {"README.md", "calibration.png", "config.json", "model.safetensors"}


def without(run, tmp_path, *names):
    """A copy of the run without some files."""
    return shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns(*names))


def test_a_published_run_is_there_with_its_card(run, stub_hub, capsys):
    out, _ = succeed(publish.main, [str(run), NAME, "--private"], capsys)
    assert NAME in out and stub_hub.private == {NAME} and stub_hub.files[NAME].keys() == FILES
    assert stub_hub.files[NAME]["calibration.png"] == (run / "calibration.png").read_bytes()
    own, again = (LocDiffusion.from_pretrained(name, "cpu") for name in (run, NAME))
    embeddings = torch.randn(2, 768)
    assert torch.equal(own.posterior(embeddings).pixel_probs, again.posterior(embeddings).pixel_probs)


def test_a_dry_run_writes_the_same_and_asks_nobody(run, stub_hub, tmp_path, capsys, monkeypatch):
    succeed(publish.main, [str(run), NAME], capsys)
    stub_hub.requests.clear()
    monkeypatch.delenv("HF_TOKEN")
    out, err = succeed(publish.main, [str(run), NAME, "--dry-run", str(tmp_path / "there" / "folder")], capsys)
    found = {path.name: path.read_bytes() for path in (tmp_path / "there" / "folder").iterdir()}
    assert found == stub_hub.files[NAME] and stub_hub.requests == []
    assert "nothing was uploaded" in out and f"'{NOT_STATED}' 1 times" in err


def test_the_card_says_what_metrics_json_says(run, tmp_path):
    card = ModelCard(publish.write_folder(run, NAME, tmp_path))
    metrics = json.loads((run / "metrics.json").read_text())
    row, worth = (metrics["rows"]["LocDiffusion, one-pass density, most probable mode"], metrics["one_pass_density"])
    low, high = row["interval"]["750"]
    assert low <= row["accuracy"]["750"] <= high
    assert f"| {row['accuracy']['750']:.1f} ({low:.1f} to {high:.1f}) |" in card.text
    nats, (a, b) = worth["nats_over_uniform"], worth["nats_interval"]
    assert a < nats < b and f"{nats:.2f} ({a:.2f} to {b:.2f}) nats more" in card.text
    for share in (50, 90):
        value, low, high = worth[f"coverage_{share}"]
        assert f"{share} % regions hold {value:.1f} ({low:.1f} to {high:.1f}) %" in card.text
    scores = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert scores["per cent within 750 km"] == pytest.approx(row["accuracy"]["750"], abs=1e-3)
    assert scores["nats over uniform"] == pytest.approx(nats, abs=1e-3) and len(scores) == 9
    for part in ("![", "](calibration.png)", "public domain", "NASA", "stalking", "GDPR", "arXiv:2503.18142"):
        assert part in card.text


def test_the_front_matter_is_plain_yaml(run, tmp_path):
    card = ModelCard(publish.write_folder(run, NAME, tmp_path))
    about = card.data.to_dict()
    assert about["library_name"] == "locdiffusion" and "arxiv:2503.18142" in about["tags"]
    (result,) = about["model-index"][0]["results"]
    assert about["model-index"][0]["name"] == "my-model"
    assert all(re.fullmatch(r"\w+", metric["type"]) for metric in result["metrics"])
    assert ModelCard(card.content).data.to_dict() == about


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("place-names", ["CC BY 4.0", "GeoNames (https://www.geonames.org)", "names_encoder"]),
        ("/home/somebody/holidays", [f"| licence | {NOT_STATED} |", f"| credit | {NOT_STATED} |", "`holidays`"]),
    ],
)
def test_the_card_names_the_licence_of_data_that_the_program_knows(data, says, run):
    settings = override(read_settings(run), data=data)
    metrics = json.loads((run / "metrics.json").read_text()) | {"kind": "texts"}
    card = model_card(NAME, settings.model, facts_of(settings, settings.model, 1, metrics)).content
    assert all(part in card for part in says) and "somebody" not in card and "NASA" not in card
    assert '--text "San José"' in card


def test_the_card_states_the_encoder_as_the_run_does(run):
    settings, metrics = read_settings(run), json.loads((run / "metrics.json").read_text())
    about = {"activation": "QuickGELU", "preprocessing": "Compose(\n  Resize | crop\n)"}
    facts = facts_of(settings, settings.model, 1, metrics | {"encoder": about})
    card = model_card(NAME, replace(settings.model, encoder="open_clip:ViT-L-14/openai"), facts).content
    for line in ("`open_clip:ViT-L-14/openai`", "| QuickGELU |", r"| Compose( Resize \| crop ) |"):
        assert line in card
    own = replace(settings.model, encoder="my-network/v1")
    assert "does not know this encoder" not in card and NOT_STATED not in card.partition("## Licence")[0]
    card = model_card(NAME, own, facts_of(settings, own, 1, {**metrics, "encoder": {}})).content
    assert "does not know this encoder" in card and f"| activation | {NOT_STATED} |" in card


def test_a_run_without_metrics_has_a_card_that_says_so(run, tmp_path):
    copy = without(run, tmp_path, "metrics.json", "state.safetensors")
    card = publish.write_folder(copy, NAME, tmp_path / "out")
    assert "This model has no scores" in card and "calibration.png" not in card and "model-index" not in card
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES - {"calibration.png"}


def test_a_report_from_before_intervals_has_none_in_the_card(run, tmp_path):
    copy = without(run, tmp_path)
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["one_pass_density"]["nats_interval"], metrics["encoder"]
    for row in metrics["rows"].values():
        row.pop("interval", None)
    (copy / "metrics.json").write_text(json.dumps(metrics))
    card = publish.write_folder(copy, NAME, tmp_path / "out")
    assert "this report is from before they had" in card and "| 100.0 (" not in card
    del metrics["one_pass_density"]["coverage_50"]
    (copy / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ValueError, match=r"metrics\.json is no report of this version .*locdiff\.evaluate"):
        publish.write_folder(copy, NAME, tmp_path / "out")


def mark_as_stopped(run):
    tensors = load_file(run / "state.safetensors")
    save_file(tensors, run / "state.safetensors", {"step": "7", "ended": "False"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: shutil.rmtree(run), "there is no folder .*copy: give the folder of a training run"),
        (mark_as_stopped, "training of .*copy has not ended, it is at step 7: .*--resume"),
        (lambda run: (run / "metrics.json").unlink(), "has not ended, it is at step 60: python -m locdiff.train --res"),
        (lambda run: (run / "calibration.png").unlink(), "calibration.png is missing: python -m locdiff.evaluate"),
        (lambda run: (run / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda run: (run / "training.json").unlink(), "cannot read the training settings"),
        (lambda run: (run / "state.safetensors").write_bytes(b"no"), "state.safetensors cannot be read or is damaged"),
        (lambda run: (run / "metrics.json").write_text("[]"), "metrics.json is no report of this version"),
    ],
)
def test_what_cannot_be_published_is_one_line(spoil, message, run, stub_hub, tmp_path, capsys):
    copy = without(run, tmp_path)
    spoil(copy)
    code, lines = outcome(publish.main, [str(copy), NAME], capsys)
    assert code == 2 and len(lines) == 1 and re.search(message, lines[0]), lines
    assert stub_hub.files == {}


def test_a_dry_run_overwrites_nothing(run, tmp_path, capsys):
    code, lines = outcome(publish.main, [str(run), NAME, "--dry-run", str(tmp_path)], capsys)
    assert code == 2 and len(lines) == 1 and "exists already; choose another folder" in lines[0]
    code, lines = outcome(publish.main, [str(run), "my-model", "--dry-run", str(tmp_path / "new")], capsys)
    assert code == 2 and "'my-model' is no name" in lines[0] and not (tmp_path / "new").exists()


def test_the_command_and_hf_endpoint(run, tmp_path):
    """In one new process: published, taken from there, and the same."""
    code = f"""if True:
        import sys, torch
        from locdiff import LocDiffusion, publish
        publish.main([sys.argv[1], "{NAME}"])
        own, again = (LocDiffusion.from_pretrained(name, "cpu") for name in (sys.argv[1], "{NAME}"))
        x = torch.randn(2, 768)
        assert torch.equal(own.posterior(x).pixel_probs, again.posterior(x).pixel_probs)"""
    with serve() as (hub, address):
        own = {"HF_ENDPOINT": address, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code, str(run)], capture_output=True, text=True, env=os.environ | own
        )
        assert done.returncode == 0, done.stderr
        assert hub.files[NAME].keys() == FILES and hub.downloads() == ["config.json", "model.safetensors"]
