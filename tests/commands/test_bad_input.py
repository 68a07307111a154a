"""What the commands say to input that they cannot use."""

import pytest
import torch
from support.commands import outcome

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
        (evaluate.main, [], "give the folder of a training run"),
        (evaluate.main, ["nowhere"], "nowhere/training.json"),
        (evaluate.main, ["nowhere", "--gallery", "mp16"], "--gallery says where --hybrid retrieves from; add --hybrid"),
        (evaluate.main, ["--truth", "t.csv"], "go together"),
        (evaluate.main, ["--truth", "t.csv", "--predictions", "p.csv"], "cannot read p.csv"),
        (predict.main, ["nowhere", "a.jpg"], "nowhere/config.json is missing"),
        (predict.main, ["nowhere", "a.jpg", "--memory", "0"], "at least 1 MB, got 0: change --memory"),
        (evaluate.main, ["nowhere", "--memory", "-1"], "at least 1 MB, got -1: change --memory"),
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
