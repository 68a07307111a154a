// The page: what the reader gives goes to the server, one picture after the other; answers are listed and shown.
"use strict";

const limits = document.body.dataset;
const part = (id) => document.getElementById(id);
const results = []; // { answer, button }, the newest first
let current = null;

function make(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function complain(sentence) {
  part("errors").append(make("p", sentence));
}

function busy(text) {
  part("busy").hidden = !text;
  part("busy").textContent = text;
}

async function ask(address, options) {
  let response;
  try {
    response = await fetch(address, { cache: "no-store", ...options });
  } catch {
    throw new Error("The server cannot be reached: is it still running?");
  }
  const isJson = response.headers.get("content-type")?.startsWith("application/json");
  const record = isJson ? await response.json() : { error: `The server failed with status ${response.status}.` };
  if (!response.ok) throw new Error(record.error);
  return record;
}

// ---- what the reader gives

async function locatePictures(files) {
  part("errors").replaceChildren();
  if (files.length > Number(limits.mostPictures)) {
    complain(`${files.length} pictures are too many at once: choose at most ${limits.mostPictures}.`);
    return;
  }
  let first = true;
  for (const [i, file] of files.entries()) {
    busy(`Locating ${file.name} (${i + 1} of ${files.length}) …`);
    try {
      if (file.size > Number(limits.mostBytes)) {
        const most = Number(limits.mostBytes).toLocaleString("en");
        throw new Error(`${file.name} has more than ${most} bytes: give a smaller one.`);
      }
      const answer = await ask(`/pictures?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
      list(answer, await thumbnail(file), first);
      first = false;
    } catch (error) {
      complain(error.message);
    }
  }
  busy("");
}

async function locateWords(words) {
  part("errors").replaceChildren();
  busy(`Locating ${words} …`);
  try {
    list(await ask("/words", { method: "POST", body: words }), make("span", "“ ”", "said"), true);
    part("text").select();
  } catch (error) {
    complain(error.message);
  }
  busy("");
}

// A small copy of a picture, drawn by the browser; one that it cannot read has none.
async function thumbnail(file) {
  const canvas = document.createElement("canvas");
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, 240 / Math.max(bitmap.width, bitmap.height));
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.classList.toggle("small", bitmap.width < 64);
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  } catch {
    return make("span", "?", "said");
  }
  return canvas;
}

// ---- the list of results

function list(answer, picture, show) {
  const button = make("button");
  button.type = "button";
  button.title = answer.name;
  button.append(picture, make("span", answer.name, "name"));
  const result = { answer, button };
  button.addEventListener("click", () => look(result));
  results.unshift(result);
  const item = make("li");
  item.append(button);
  part("results").prepend(item);
  for (const old of results.splice(Number(limits.kept))) old.button.parentElement.remove();
  if (show || !current) look(result);
}

function look(result) {
  current = result;
  for (const { button } of results) button.setAttribute("aria-pressed", String(button === result.button));
  const { answer } = result;
  part("answer").hidden = false;
  part("name").textContent = answer.name;
  part("k").max = Math.max(answer.modes.length, 1);
  const km = (radius) => `${Math.round(radius).toLocaleString("en")} km`;
  part("radii").textContent = `Half the probability lies within ${km(answer.radius_50_km)} of mode 1, ` +
    `and 90 % within ${km(answer.radius_90_km)}.`;
  fill("within", answer.within, (place) => `${place.km} km`);
  drawDensity(answer.key);
  drawRegions(answer.regions);
  drawWithin(answer.within);
  drawSamples(answer.samples);
  showModes();
  showTaken();
  lookAt(answer.modes.slice(0, Number(part("k").value)));
}

function showModes() {
  const k = Number(part("k").value);
  part("k-shown").value = k;
  if (!current) return;
  const modes = current.answer.modes.slice(0, k);
  fill("modes", modes, (_, i) => `${i + 1}.`);
  drawModes(modes);
}

function degrees({ lat, lon }) {
  return `${Math.abs(lat).toFixed(2)}° ${lat < 0 ? "S" : "N"}, ${Math.abs(lon).toFixed(2)}° ${lon < 0 ? "W" : "E"}`;
}

function fill(table, places, first) {
  const rows = places.map((place, i) => {
    const row = make("tr"), where = make("td", place.where || degrees(place));
    if (place.where) where.append(make("small", degrees(place)));
    row.append(make("td", first(place, i)), where, make("td", percent(place.probability)));
    row.addEventListener("click", () => map.setView([place.lat, place.lon], Math.max(map.getZoom(), 5)));
    return row;
  });
  document.querySelector(`#${table} tbody`).replaceChildren(...rows);
}

// The place in the file is asked for only if the reader wants it.
async function showTaken() {
  part("taken").hidden = true;
  drawTaken(null);
  if (!part("show-taken")?.checked || !current) return;
  const asked = current;
  try {
    const place = await ask(`/answers/${encodeURIComponent(asked.answer.key)}/taken`);
    if (asked !== current || !part("show-taken").checked) return;
    const known = place.reason === undefined;
    part("taken").textContent = known
      ? `The file says it was taken ${place.where ? `${place.where} (${degrees(place)})` : `at ${degrees(place)}`}.`
      : `The file says no place: ${place.reason}.`;
    part("taken").hidden = false;
    drawTaken(known ? place : null);
  } catch (error) {
    complain(error.message);
  }
}

// ---- events

part("files")?.addEventListener("change", async ({ target }) => {
  const files = [...target.files];
  target.value = ""; // so that the same file can be chosen again
  if (files.length) await locatePictures(files);
});

if (part("drop")) {
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      part("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
      const files = [...(event.dataTransfer?.files ?? [])];
      if (name === "drop" && files.length) locatePictures(files);
    });
  }
}

part("words")?.addEventListener("submit", (event) => {
  event.preventDefault();
  locateWords(part("text").value);
});

part("k").addEventListener("input", showModes);
part("show-taken")?.addEventListener("change", showTaken);
for (const box of document.querySelectorAll("[data-layer]")) {
  want(box.dataset.layer, box.checked);
  box.addEventListener("change", () => want(box.dataset.layer, box.checked));
}
showModes();
