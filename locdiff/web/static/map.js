// The map: tiles of the Earth and of a density, and what is marked on them. Every mark is drawn on three copies of the
// world, so that a map across the antimeridian shows it too.
"use strict";

const TURNS = [-360, 0, 360];
const LOOKS = getComputedStyle(document.documentElement);
const color = (name) => LOOKS.getPropertyValue(`--${name}`).trim();

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
    const tile = make("img");
    tile.alt = "";
    tile.onload = () => done(null, tile);
    tile.onerror = () => done(new Error(`no tile ${z}/${x}/${y}`), tile);
    tile.src = `${this.address}/${z}/${x}/${y}`;
    return tile;
  },
});

const deepest = Number(document.body.dataset.deepest);
const map = L.map("map", { minZoom: 1, maxZoom: deepest, maxBounds: [[-89, -540], [89, 540]], preferCanvas: true });
map.attributionControl.setPrefix(false).addAttribution(document.body.dataset.credit);
map.setView([20, 10], map.getSize().x < 600 ? 1 : 2);
new Tiles("/earth", { zIndex: 1 }).addTo(map);
L.control.scale({ imperial: false, position: "topright" }).addTo(map);
new ResizeObserver(() => map.invalidateSize()).observe(map.getContainer());

const shown = {}; // layers by name, of the answer that is looked at
const wanted = { taken: true }; // whether each is to be seen

function put(name, layer) {
  shown[name]?.remove();
  shown[name] = layer;
  if (layer && wanted[name]) layer.addTo(map);
}

function want(name, yes) {
  wanted[name] = yes;
  put(name, shown[name]);
}

const turned = (draw) => L.layerGroup(TURNS.flatMap(draw));

function make(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function dot({ lat, lon }, turn, radius, fillColor) {
  return L.circleMarker([lat, lon + turn], { radius, fillColor, color: color("edge"), weight: 1.5, fillOpacity: 1 });
}

function mark({ lat, lon }, turn, className, text, title) {
  const icon = L.divIcon({ className, html: make("span", text), iconSize: null });
  return L.marker([lat, lon + turn], { icon, keyboard: false }).bindTooltip(make("span", title));
}

function percent(probability) {
  return probability < 1e-4 ? "< 0.01 %" : `${Number((100 * probability).toPrecision(3))} %`;
}

function drawDensity(key) {
  put("density", new Tiles(`/answers/${encodeURIComponent(key)}`, { zIndex: 2 }));
}

function drawModes(modes) {
  put("modes", turned((turn) => modes.map((mode, i) =>
    mark(mode, turn, "pin", i + 1, `${percent(mode.probability)} ${mode.where}`).setZIndexOffset(-i))));
}

function drawRegions(regions) {
  const inside = { stroke: false, fillColor: color("rim"), fillOpacity: 0.06, interactive: false };
  put("regions", turned((turn) => regions.flatMap(({ share, polygons, rims }) => {
    const move = (line) => line.map(([lat, lon]) => [lat, lon + turn]);
    const line = share === 50 ? { weight: 1.8 } : { weight: 1.2, dashArray: "6 4" };
    return [
      L.polygon(polygons.map((rings) => rings.map(move)), inside),
      L.polyline(rims.map(move), { ...line, color: color("rim"), interactive: false }),
    ];
  })));
}

function drawSamples(samples) {
  put("samples", turned((turn) => samples.map(([lat, lon]) => dot({ lat, lon }, turn, 3.5, color("sample")))));
}

// Distances that have the same best place share a label.
function drawWithin(within) {
  const at = ({ lat, lon }) => `${lat.toFixed(2)} ${lon.toFixed(2)}`;
  const labels = new Map(within.map((one) => [at(one), within.filter((other) => at(other) === at(one))]));
  put("within", turned((turn) => [...labels.values()].map((same) =>
    mark(same[0], turn, "label", `${same.map(({ km }) => km).join(", ")} km`, `best places ${same[0].where}`).setZIndexOffset(-999))));
}

function drawTaken(place) {
  put("taken", place && turned((turn) => [dot(place, turn, 7, color("truth")).bindTooltip("the place in the file")]));
}

// Leaflet drops a change of view while it zooms, so that waits.
let isZooming = false;
map.on("zoomanim", () => { isZooming = true; });
map.on("moveend", () => { isZooming = false; });
const whenStill = (change) => (isZooming ? map.once("moveend", change) : change());

function goTo({ lat, lon }) {
  whenStill(() => map.setView([lat, lon], Math.max(map.getZoom(), 5)));
}

// Look at the modes that matter; the first alone does not fill the map.
function lookAt(modes) {
  const places = modes.filter(({ probability }, i) => i === 0 || probability >= 0.05);
  const bounds = places.map(({ lat, lon }) => [lat, lon]);
  whenStill(() => map.fitBounds(bounds, { maxZoom: 5, padding: [60, 60], animate: false }));
}
