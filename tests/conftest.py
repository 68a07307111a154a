import pytest

from locdiff import train
from locdiff.data.geoclip import GeoClip
from locdiff.evaluation import summaries


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
