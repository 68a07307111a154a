"""What the commands say to input that they cannot use."""

import re

import pytest
import torch
from support.commands import outcome
from support.pictures import jpeg

from locdiff import embed, evaluate, predict, train
from locdiff.data.embeddings import write_embeddings


@pytest.mark.parametrize(
    ("main", "argv", "message"),
    [
        (train.main, ["--color", "1"], "0 <= color < 1"),
        (train.main, ["--colours", "1"], "unrecognized arguments: --colours 1"),
        (train.main, ["--lr", "fast"], "invalid float value: 'fast'"),
        (train.main, ["--seed", "-1"], "seed must be at least 0, got -1"),
        (train.main, ["--loss", "l3"], "invalid choice: 'l3'"),
        (train.main, ["--loss", "l2"], "add --no-exact-skip"),
        (train.main, ["--data", "nowhere"], "nowhere is no folder"),
        (train.main, ["--resume", "nowhere"], "nowhere/training.json"),
        (train.main, ["--resume", "nowhere", "--lr", "1"], "takes no other settings"),
        (train.main, ["--data", ""], "argument --data: it is empty"),
        (train.main, ["--resume", ""], "argument --resume: it is empty"),
        (train.main, ["--weight-decay", "-1"], "weight_decay must be at least 0, got -1.0"),
        (train.main, ["--snr-first", "1e300"], "snr_first must lie in 1e-06..1,000,000, got 1e+300"),
        (train.main, ["--snr-shift", "1e-300"], "snr_shift must lie in"),
        (train.main, ["--lr", "inf"], "lr must be a finite number, got inf"),
        (train.main, ["--clip", "nan"], "clip must be a finite number, got nan"),
        (train.main, ["--seed", str(2**63)], "seed must be a whole number of at most 64 bits"),
        (train.main, ["--batch", str(2**60)], "batch must be at most 10,000,000, got"),
        (train.main, ["--holdout", "-1"], "holdout must be at least 0, got -1"),
        (train.main, ["--decoder-nside", "1000000"], "decoder_nside must lie in 1..4,096, got 1000000"),
        (evaluate.main, [], "give the folder of a training run"),
        (evaluate.main, ["nowhere"], "nowhere/training.json"),
        (evaluate.main, ["nowhere", "--gallery", "mp16"], "--gallery says where --hybrid retrieves from; add --hybrid"),
        (evaluate.main, ["--truth", "t.csv"], "go together"),
        (evaluate.main, ["--truth", "t.csv", "--predictions", "p.csv"], "cannot read p.csv"),
        (predict.main, ["nowhere", "a.jpg"], "nowhere/config.json is missing"),
        (predict.main, ["nowhere", "a.jpg", "--memory", "0"], "at least 1 MB, got 0: change --memory"),
        (evaluate.main, ["nowhere", "--memory", "-1"], "at least 1 MB, got -1: change --memory"),
        (predict.main, ["nowhere", "a.jpg", "--memory", str(2**63)], "at most 1,073,741,824 MB"),
        (predict.main, ["nowhere", ""], "argument PICTURE: it is empty"),
        (predict.main, ["nowhere", "a.jpg", "--batch", str(2**63)], "argument --batch: must be at most"),
        (evaluate.main, ["nowhere", "--data", ""], "argument --data: it is empty"),
        (evaluate.main, ["nowhere", "--samples", "0"], "argument --samples: must be at least 1, got 0"),
        (evaluate.main, ["nowhere", "--thresholds", "1e300"], "distances in km, above 0, on Earth at most 20,016"),
        (embed.main, ["nowhere", "out", "--batch", "0"], "argument --batch: must be at least 1, got 0"),
        (embed.main, ["nowhere", "out", "--workers", "-1"], "argument --workers: must be at least 0, got -1"),
        (embed.main, ["nowhere", "out", "--max-pixels", "0"], "argument --max-pixels: must be at least 1, got 0"),
        (embed.main, ["nowhere", ""], "argument OUT: it is empty"),
        (embed.main, ["nowhere", "out", "--encoder", "clap:x"], "'clap:x' is no encoder that this program knows"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line_and_code_2(main, argv, message, cache, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, lines = outcome(main, argv, capsys)
    assert code == 2 and len(lines) == 1 and message in lines[0], lines
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none_is_refused(run, pictures, tmp_path, capsys):
    for main, argv in (
        (predict.main, [str(run), pictures[0]]),
        (evaluate.main, [str(run)]),
        (train.main, ["--preset", "smoke", "--out", str(tmp_path / "run")]),
        (embed.main, [str(tmp_path), str(tmp_path / "out")]),
    ):
        code, lines = outcome(main, [*argv, "--device", "cuda"], capsys)
        assert code == 2 and "device 'cuda' cannot be used" in lines[-1], lines
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()


def test_embeddings_of_another_encoder_are_refused_by_name(run, tmp_path, capsys):
    write_embeddings(tmp_path / "clip", torch.zeros(2, 768), torch.zeros(2, 2), "clip")
    for main, argv in [
        (predict.main, [str(run), str(tmp_path / "clip")]),
        (evaluate.main, [str(run), "--data", str(tmp_path / "clip")]),
    ]:
        code, lines = outcome(main, argv, capsys)
        assert code == 2 and "by 'clip', but this model was trained on 'thumbnail-16'" in lines[-1]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "abc"}, "the environment variable WORLD_SIZE is 'abc', not a number: start with torchrun"),
        ({"WORLD_SIZE": "-1"}, "the environment variable WORLD_SIZE is '-1', not a number"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set, but .* RANK expected, but not set: start with torchrun"),
    ],
)
def test_variables_of_torchrun_that_do_not_fit_are_named(variables, message, tmp_path, capsys, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for main, argv in (
        (train.main, ["--out", str(tmp_path / "run")]),
        (embed.main, ["nowhere", str(tmp_path / "out")]),
    ):
        code, lines = outcome(main, [*argv, "--device", "cpu"], capsys)
        assert code == 2 and len(lines) == 1 and re.search(message, lines[0]), lines
    assert list(tmp_path.iterdir()) == []


def test_pictures_without_places_are_good_for_predictions_alone(tmp_path, capsys):
    """As the command says, and as training says after it."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(jpeg())
    data = str(tmp_path / "data")
    embed.main([str(tmp_path / "pictures"), data, "--encoder", "thumbnail-16", "--device", "cpu"])
    assert f"no place is known: {data} is good for predict, not for train; give" in capsys.readouterr().err
    code, lines = outcome(train.main, ["--data", data, "--out", str(tmp_path / "run")], capsys)
    assert code == 2 and "no picture has a place" in lines[-1]
