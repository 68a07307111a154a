"""One self-contained page of predictions: each picture, its density on the map and its places, for phone and desk."""

import base64
import html
import io

import numpy as np
from PIL import Image

from locdiff.files import atomic_path
from locdiff.viz import maps

LIMIT = 500  # pictures a page: some 100 kB each
PICTURE_SIDE, MAP_HEIGHT = 480, 320
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; --line: #8884; --soft: #8881; --quiet: #777; }}
@media (prefers-color-scheme: dark) {{ :root {{ --quiet: #aaa; }} }}
body {{ font: 16px/1.45 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }}
h1 {{ font-size: 1.4rem; margin: 0 0 .2rem; }} h2 {{ font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; }}
p {{ margin: .4rem 0; }} .quiet {{ color: var(--quiet); font-size: .86rem; }}
article {{ border: 1px solid var(--line); border-radius: .8rem; padding: .9rem; margin: 1rem 0;
  background: var(--soft); }}
.views {{ display: flex; flex-wrap: wrap; gap: .6rem; margin: .7rem 0; }}
.views > * {{ border-radius: .4rem; }}
.picture {{ flex: 1 1 14rem; min-width: 0; max-width: 100%; max-height: 22rem; object-fit: contain; }}
.small {{ image-rendering: pixelated; }}
.world {{ flex: 4 1 30rem; min-width: min(100%, 20rem); }} .near {{ flex: 2 1 15rem; min-width: 0; }}
svg {{ display: block; width: 100%; height: auto; border-radius: .4rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
td, th {{ padding: .2rem .9rem .2rem 0; text-align: right; }} td:first-child, th:first-child {{ text-align: left; }}
th {{ font-weight: normal; color: var(--quiet); font-size: .86rem; }}
.ring {{ fill: none; stroke: #fff; stroke-width: 1.8px; pointer-events: all; }} .dot {{ fill: #6df; }}
td a {{ white-space: nowrap; }}
@media (max-width: 40rem) {{ .world .ring {{ r: 10px; stroke-width: 3px; }} .world text {{ font-size: 28px; }} }}
details {{ margin-top: .5rem; }} summary {{ cursor: pointer; padding: .3rem 0; }} a {{ color: inherit; }}
</style></head><body>
<h1>{title}</h1>
<p class="quiet">{note}</p>
<div class="world">{overview}</div>
<p class="quiet">Colour: probability per area, from its largest value (yellow) to a thousandth of it (dark). White
lines: the smallest regions that hold 50 % (whole) and 90 % (dashed). Rings: tops of the most probable hills of the
density, in this order. Blue dots: places drawn from the diffusion. The square map: 3000 km around place 1. Map: NASA
Blue Marble.</p>
{cards}
</body></html>
"""


def write_page(path, title, note, names, pictures, predictions, density):
    """Write the page for n pictures: names (n), pictures (n; PIL images or None), Predictions (n), density (n, N)."""
    grey = maps.grey_map()
    several = zip(names, pictures, predictions, density, strict=True)
    cards = [_card(i, *parts, grey) for i, parts in enumerate(several, 1)]
    overview = _overview(predictions, names, grey) if len(names) > 1 else ""
    page = PAGE.format(title=html.escape(title), note=html.escape(note), overview=overview, cards="\n".join(cards))
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _card(number, name, picture, prediction, density, grey):
    name = html.escape(name)
    window = maps.close_up(np.array(prediction.places[0]))
    views = [
        f'<div class="world">{_map(prediction, density, grey, maps.WORLD)}</div>',
        f'<div class="near">{_map(prediction, density, grey, window)}</div>',
    ]
    if picture is not None:
        picture = picture.copy()
        picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        small = " small" if max(picture.size) < 100 else ""
        width = max(picture.width, 240) if small else picture.width
        views.insert(0, f'<img class="picture{small}" width="{width}" src="{_data(picture)}" alt="{name}">')
    places = "".join(
        f"<tr><td>{i}</td><td>{_place(place)}</td><td>{100 * probability:.3g} %</td></tr>"
        for i, (place, probability) in enumerate(zip(prediction.places, prediction.probabilities, strict=True), 1)
    )
    within = "".join(
        f"<tr><td>within {k} km</td><td>{_place((lat, lon))}</td><td>{100 * probability:.3g} %</td></tr>"
        for k, (lat, lon, probability) in prediction.within.items()
    )
    if prediction.samples:
        within += f"<tr><td>centre of {len(prediction.samples)} samples</td><td>{_place(prediction.center)}</td></tr>"
    return f"""<article id="p{number}"><h2>{number}. {name}</h2>
<div class="views">{"".join(views)}</div>
<table><tr><th>place</th><th></th><th>probability</th></tr>{places}</table>
<p>Half the probability lies within <b>{prediction.radius_50_km:,.0f} km</b> of place 1, and 90 % within
<b>{prediction.radius_90_km:,.0f} km</b>.</p>
<details><summary>Best guess for each distance</summary>
<table><tr><th>if right means</th><th></th><th>probability</th></tr>{within}</table></details></article>"""


def _map(prediction, density, grey, window):
    """The density in a window as an svg: the painted map with region outlines, samples and numbered places on top."""
    colors, value, _, _ = maps.paint(density, grey, window, MAP_HEIGHT)
    for level, dash in zip(maps.region_levels(density), (1, 2), strict=False):
        row, column = np.nonzero(_outline(value >= level))
        whole = (row + column) // 3 % dash == 0
        colors[row[whole], column[whole]] = 1
    height, width = colors.shape[:2]
    picture = Image.fromarray((255 * colors).round().astype(np.uint8))
    marks = [f'<circle cx="{x}" cy="{y}" r="2.2" class="dot"/>' for x, y in _inside(prediction.samples, window, width)]
    for i, (x, y) in reversed(list(enumerate(_inside(prediction.places, window, width), 1))):
        marks.append(_ring(x, y, i if len(prediction.places) > 1 else ""))
    place = "the world" if window == maps.WORLD else "3000 km around place 1"
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="probability over {place}">'
        f'<image width="{width}" height="{height}" href="{_data(picture)}"/>{"".join(marks)}</svg>'
    )


def _overview(predictions, names, grey):
    """All first places on one map, each a link to its picture."""
    width = 800
    picture = Image.fromarray((255 * grey).astype(np.uint8)).resize((1200, 600))
    points = _inside([p.places[0] for p in predictions], maps.WORLD, width)
    rings = [
        f'<a href="#p{i}"><title>{i}. {html.escape(name)}</title>{_ring(x, y, i)}</a>'
        for i, ((x, y), name) in enumerate(zip(points, names, strict=True), 1)
    ]
    return (
        f'<svg viewBox="0 0 {width} {width // 2}" role="img" aria-label="the most probable place of every picture">'
        f'<image width="{width}" height="{width // 2}" href="{_data(picture)}"/>{"".join(rings)}</svg>'
    )


def _ring(x, y, label):
    text = f'<text x="{x}" y="{y - 9}" font-size="13" text-anchor="middle" fill="#fff">{label}</text>' if label else ""
    return f'<circle cx="{x}" cy="{y}" r="6" class="ring"/>{text}'


def _inside(places, window, width):
    """Positions on a map of this width of places in degrees: [(x, y), ...]; the svg cuts off those outside."""
    lat, lon, half_height, half_width = window
    height = width / 2 if window == maps.WORLD else width
    return [
        (
            round(width * (((b - lon + 180) % 360 - 180) / half_width + 1) / 2, 1),
            round(height * (1 - (a - lat) / half_height) / 2, 1),
        )
        for a, b in places
    ]


def _outline(mask):
    """The pixels of a region (h, w) that have a neighbour outside it."""
    padded = np.pad(mask, 1, mode="edge")
    return mask & ~(padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2])


def _place(place):
    lat, lon = place
    if not (np.isfinite(lat) and np.isfinite(lon)):
        return "none"
    link = f"https://www.openstreetmap.org/?mlat={lat:.4f}&amp;mlon={lon:.4f}#map=6/{lat:.4f}/{lon:.4f}"
    name = f"{abs(lat):.2f}° {'N' if lat >= 0 else 'S'}, {abs(lon):.2f}° {'E' if lon >= 0 else 'W'}"
    return f'<a href="{link}" rel="noreferrer">{name}</a>'


def _data(picture):
    """A picture as a data URI: png where it is small, jpeg otherwise."""
    buffer = io.BytesIO()
    kind = "png" if max(picture.size) < 100 else "jpeg"
    picture.save(buffer, kind, **({"quality": 80} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
