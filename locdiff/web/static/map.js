// The map: tiles of the Earth and of a density, and what is marked on them. Every mark is drawn on three copies of the
// world, so that a map across the antimeridian shows it too.
"use strict";

const TURNS = [-360, 0, 360];
const DEEPEST = Number(document.body.dataset.deepest);

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// Leaflet's own tile layer stops loading by a data URI, which the page's policy forbids.
const Tiles = L.GridLayer.extend({
  initialize(address, options) {
    this.address = address;
    L.setOptions(this, options);
    this.on("tileunload", ({ tile }) => {
      tile.onload = tile.onerror = null;
      tile.removeAttribute("src");
    });
  },
  createTile({ x, y, z }, done) {
    const tile = document.createElement("img");
    tile.alt = "";
    tile.onload = () => done(null, tile);
    tile.onerror = () => done(new Error(`no tile ${z}/${x}/${y}`), tile);
    tile.src = `${this.address}/${z}/${x}/${y}`;
    return tile;
  },
});

const map = L.map("map", { minZoom: 1, maxZoom: DEEPEST, maxBounds: [[-89, -540], [89, 540]], preferCanvas: true });
map.attributionControl.setPrefix(false).addAttribution(document.body.dataset.credit);
map.setView([20, 10], map.getSize().x < 600 ? 1 : 2);
new Tiles("/earth", { zIndex: 1 }).addTo(map);
L.control.scale({ imperial: false }).addTo(map);
new ResizeObserver(() => map.invalidateSize()).observe(map.getContainer());

const shown = {}; // layers by name, of the answer that is looked at
const wanted = {}; // whether each is to be seen

function put(name, layer) {
  shown[name]?.remove();
  shown[name] = layer;
  if (layer && wanted[name]) layer.addTo(map);
}

function want(name, yes) {
  wanted[name] = yes;
  if (shown[name]) yes ? shown[name].addTo(map) : shown[name].remove();
}

function turned(make) {
  return L.layerGroup(TURNS.flatMap(make));
}

function words(text) {
  const part = document.createElement("span");
  part.textContent = text;
  return part;
}

function percent(probability) {
  return `${(100 * probability).toPrecision(3)} %`;
}

function pin(place, number, turn) {
  const icon = L.divIcon({ className: "pin", html: String(number), iconSize: [22, 22] });
  const title = `${number}. ${percent(place.probability)} ${place.where}`;
  return L.marker([place.lat, place.lon + turn], { icon, keyboard: false, zIndexOffset: -number })
    .bindTooltip(words(title));
}

function drawDensity(key) {
  put("density", new Tiles(`/answers/${encodeURIComponent(key)}`, { zIndex: 2 }));
}

function drawModes(modes) {
  put("modes", turned((turn) => modes.map((mode, i) => pin(mode, i + 1, turn))));
}

function drawRegions(regions) {
  const look = { color: color("rim"), interactive: false, fill: false };
  put("regions", turned((turn) => regions.flatMap(({ share, polygons, rims }) => {
    const line = { ...look, weight: share === 50 ? 1.8 : 1.2, dashArray: share === 50 ? null : "6 4" };
    const move = ([lat, lon]) => [lat, lon + turn];
    const inside = { stroke: false, fill: true, fillColor: color("rim"), fillOpacity: 0.06, interactive: false };
    return [
      L.polygon(polygons.map((polygon) => polygon.map((ring) => ring.map(move))), inside),
      L.polyline(rims.map((rim) => rim.map(move)), line),
    ];
  })));
}

function drawSamples(samples) {
  const look = { radius: 3.5, color: color("edge"), weight: 1, fillColor: color("sample"), fillOpacity: 1 };
  put("samples", turned((turn) => samples.map(([lat, lon]) =>
    L.circleMarker([lat, lon + turn], { ...look, interactive: false }))));
}

// Distances that have the same best place share a label.
function drawWithin(within) {
  const labels = new Map();
  for (const one of within) {
    const at = `${one.lat.toFixed(2)} ${one.lon.toFixed(2)}`;
    labels.set(at, { ...one, all: [...(labels.get(at)?.all ?? []), one.km] });
  }
  put("within", turned((turn) => [...labels.values()].map(({ lat, lon, all }) => {
    const icon = L.divIcon({ className: "label", html: `${all.join(", ")} km`, iconSize: null, iconAnchor: [-8, 9] });
    const dot = { radius: 4, color: color("edge"), weight: 1, fillColor: color("mode"), fillOpacity: 1 };
    return L.layerGroup([
      L.circleMarker([lat, lon + turn], { ...dot, interactive: false }),
      L.marker([lat, lon + turn], { icon, interactive: false, keyboard: false }),
    ]);
  })));
}

function drawTaken(place) {
  wanted.taken = true;
  const look = { radius: 7, color: color("edge"), weight: 2, fillColor: color("truth"), fillOpacity: 1 };
  put("taken", place && turned((turn) => [
    L.circleMarker([place.lat, place.lon + turn], look).bindTooltip("where the file says it was taken"),
  ]));
}

// Look at the modes that matter; the first alone may fill the map.
function lookAt(modes) {
  const places = modes.filter((mode, i) => i === 0 || mode.probability >= 0.05);
  map.fitBounds(places.map(({ lat, lon }) => [lat, lon]), { maxZoom: 5, padding: [60, 60], animate: false });
}
