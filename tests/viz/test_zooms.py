"""The picture of three zooms shows the density of a refined posterior where it is."""

import numpy as np
import torch
from PIL import Image
from support.models import peaked_at

from locdiff.sphere.coordinates import great_circle_km
from locdiff.viz import maps


def test_the_picture_of_three_zooms_shows_the_density_where_it_is(tmp_path):
    model = peaked_at(torch.tensor([86.0, 70.0], dtype=torch.float64), 20.0, zoom_into=1)
    posterior = model.posterior(torch.zeros(1, 5))
    modes = posterior.modes()[0][:, 0]
    seen = []

    def density_at(lat_lon):
        seen.append(lat_lon)
        flat = torch.from_numpy(lat_lon.reshape(-1, 2))
        return posterior.log_density(flat)[0].exp().numpy().reshape(lat_lon.shape[:-1])

    window = maps.close_up(modes[0] + torch.tensor([1.0, 0.5]), 3.0)  # the mode is not in the middle
    colors, value, lats, lons = maps.paint_function(density_at, np.zeros((90, 180)), window, 60)
    row, column = np.unravel_index(value.argmax(), value.shape)
    brightest = torch.tensor([[lats[row], lons[column]]], dtype=torch.float64)
    assert great_circle_km(brightest, modes).item() < 40 and seen[0].shape == (60, 60, 2)  # pixels of 11 and 25 km
    assert colors[row, column].sum() == colors.sum(axis=-1).max()
    path, truth = tmp_path / "zooms.png", torch.tensor([[90.0, 0.0]], dtype=torch.float64)
    maps.draw_zooms(path, posterior, modes, truth, np.zeros((1, 4, 4, 3)))
    with Image.open(path) as picture:
        assert picture.size[0] > 1000
