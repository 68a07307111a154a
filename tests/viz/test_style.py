"""The colours can be told apart without seeing colours."""

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.colors import to_rgb

from locdiff.viz.style import DARK, LIGHT

STYLES = {"light": LIGHT, "dark": DARK}


def luminance(rgb):
    """Return the relative luminance (...) of colours (..., 3), as WCAG 2 defines it."""
    rgb = np.asarray(rgb)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def lightness(rgb):
    """Return CIELAB's lightness, from 0 to 100."""
    y = luminance(rgb)
    return np.where(y > (6 / 29) ** 3, 116 * np.cbrt(y) - 16, y * (29 / 3) ** 3)


def contrast(a, b):
    low, high = sorted((luminance(to_rgb(a)), luminance(to_rgb(b))))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
@pytest.mark.parametrize("ground", ["sea", "land"])
def test_shades_grow_ever_lighter_or_darker_over_land_and_sea(style, ground):
    below = np.array(to_rgb(getattr(style, ground)))
    shade = style.shade(np.linspace(0, 1, 101))
    assert shade[0, 3] == 0 and shade[-1, 3] > 0.9
    seen = lightness(shade[:, 3:] * shade[:, :3] + (1 - shade[:, 3:]) * below)
    steps = np.diff(seen) * (1 if style is DARK else -1)
    assert steps.min() > 0 and steps.max() < 3 and np.abs(seen[-1] - seen[0]) > 55


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_words_and_lines_stand_out(style):
    assert contrast(style.ink, style.paper) > 10 and contrast(style.quiet, style.paper) > 4.5
    assert contrast(style.edge, style.mode) > 10 and contrast(style.ink, style.sea) > 10
    for over in (style.sea, style.land):
        assert 1.5 < contrast(style.coast, over) < 4  # seen, but calm
        assert contrast(style.rim, over) > 9
    peak = style.shade(np.ones(1))[0, :3]
    assert contrast(style.rim, peak) > 1.3 and contrast(style.border, style.land) > 1.15


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_matplotlib_knows_the_settings(style):
    with rc_context(style.settings()) as _:
        pass
