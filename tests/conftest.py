import os

import hypothesis
import pytest
import torch
from support.hub import TOKEN, only_loopback, serve

from locdiff import memory, train
from locdiff.data.geoclip import GeoClip
from locdiff.evaluation import summaries

hypothesis.settings.register_profile("locdiff", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.load_profile("locdiff")


def pytest_configure(config):
    """Compute in full precision, and give each of several test processes one thread: they would fight over cores."""
    torch.backends.cuda.matmul.allow_tf32 = False
    if config.getoption("numprocesses"):
        os.environ["OMP_NUM_THREADS"] = "1"  # this one starts the others


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Let no test depend on the random numbers that others have sampled."""
    torch.manual_seed(0)


@pytest.fixture
def megabytes(monkeypatch):
    """Set the memory budget of one test, in megabytes: megabytes(1e-3)."""
    return lambda budget: monkeypatch.setattr(memory, "_megabytes", budget)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache folder for the session, so that no test reads or fills the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCDIFF_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def run(cache, tmp_path_factory):
    """A finished smoke run, from the command line's main()."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summaries, "PLAIN_GALLERY", 300)
        patch.setattr(summaries, "PLAIN_GRID_NSIDE", 8)
        return train.main(["--preset", "smoke", "--out", str(tmp_path_factory.mktemp("runs") / "smoke")])


@pytest.fixture(scope="session")
def geoclip():
    """GeoCLIP, once: its package takes seconds to import."""
    return GeoClip()


@pytest.fixture
def stub_hub(tmp_path, monkeypatch):
    """A StubHub that huggingface_hub takes for the Hub, with a token; connections to anywhere else fail the test."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with serve() as (hub, address), only_loopback(monkeypatch) as refused:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub
        assert refused == []
