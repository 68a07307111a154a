"""One function picks the device for every command and for `from_pretrained`, and refuses in one line what is none."""

import pytest
import torch
from support.commands import outcome
from support.models import tiny

from locdiff import LocDiffusion, embed, evaluate, predict, train
from locdiff.devices import pick_device
from locdiff.errors import InputError

HAS_GPU = torch.cuda.is_available()
WRONG = {
    "mps": "it has no float64, in which locations are computed", "mps:0": "it has no float64",
    "meta": "it holds no numbers", "quantum": "torch knows no such device", "": "torch knows no such device",
    "cuda:-1": "torch knows no such device", "cuda:99": "", "hpu": "",
    **({} if HAS_GPU else {"cuda": "", "cuda:9": ""}),
}  # fmt: skip


def test_a_gpu_is_picked_if_there_is_one():
    assert pick_device() == pick_device(None) == torch.device("cuda" if HAS_GPU else "cpu")
    assert pick_device("cpu") == pick_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_device_is_refused_in_one_line_with_the_remedy(name, tmp_path):
    tiny().save_pretrained(tmp_path)
    for use in (pick_device, lambda name: LocDiffusion.from_pretrained(tmp_path, name)):
        with pytest.raises(InputError, match=f"^device '{name}' cannot be used: {WRONG[name]}.*; choose cpu") as error:
            use(name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["mps", "meta", "quantum", "cuda:99"])
def test_every_command_refuses_it(name, run, tmp_path, capsys):
    for main, argv in (
        (predict.main, [str(run), str(tmp_path)]),
        (evaluate.main, [str(run)]),
        (train.main, ["--preset", "smoke", "--out", str(tmp_path / "run")]),
        (embed.main, [str(tmp_path), str(tmp_path / "out")]),
    ):
        code, lines = outcome(main, [*argv, "--device", name], capsys)
        assert code == 2 and len(lines) == 1 and f"device '{name}' cannot be used: " in lines[0], (main, lines)
    assert list(tmp_path.iterdir()) == []
