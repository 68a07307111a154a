// The page: what the reader gives goes to the server, one picture after the other; answers are listed and shown.
"use strict";

const limits = document.body.dataset;
const part = (id) => document.getElementById(id);
const results = []; // { answer, button }, the newest last
let current = null;
let k = Number(part("k").value); // as the reader likes it; an answer may have fewer modes

async function ask(address, options) {
  const response = await fetch(address, { cache: "no-store", ...options }).catch(() => {
    throw new Error("The server cannot be reached: is it still running?");
  });
  const isJson = response.headers.get("content-type")?.startsWith("application/json");
  const record = isJson ? await response.json() : { error: `The server failed with status ${response.status}.` };
  if (!response.ok) throw new Error(record.error);
  return record;
}

// ---- what the reader gives

const complain = ({ message }) => part("errors").append(make("p", message));

function busy(text) {
  part("busy").hidden = !text;
  part("busy").textContent = text;
}

async function locatePictures(files) {
  part("errors").replaceChildren();
  if (files.length > limits.mostPictures) {
    complain({ message: `${files.length} pictures are too many at once: choose at most ${limits.mostPictures}.` });
    return;
  }
  let isFirst = true;
  for (const [i, file] of files.entries()) {
    busy(`Locating ${file.name} (${i + 1} of ${files.length}) …`);
    try {
      if (file.size > limits.mostBytes) {
        const most = Number(limits.mostBytes).toLocaleString("en");
        throw new Error(`${file.name} has more than ${most} bytes: give a smaller one.`);
      }
      const answer = await ask(`/pictures?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
      list(answer, await thumbnail(file), isFirst);
      isFirst = false;
    } catch (error) {
      complain(error);
    }
  }
  busy("");
}

async function locateWords(words) {
  part("errors").replaceChildren();
  busy(`Locating ${words} …`);
  await ask("/words", { method: "POST", body: words })
    .then((answer) => list(answer, make("span", "“ ”", "said"), true))
    .catch(complain);
  busy("");
}

// A small copy of a picture, drawn by the browser; one that it cannot read has none.
async function thumbnail(file) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return make("span", "?", "said");
  const canvas = make("canvas", "", bitmap.width < 64 ? "small" : "");
  const scale = Math.min(1, 240 / Math.max(bitmap.width, bitmap.height));
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

// ---- the list of results, and the one that is looked at

function list(answer, picture, show) {
  const button = make("button"), item = make("li"), result = { answer, button };
  button.type = "button";
  button.title = answer.name;
  button.append(picture, make("span", answer.name, "name"));
  button.addEventListener("click", () => look(result));
  item.append(button);
  part("results").append(item);
  results.push(result);
  for (const old of results.splice(0, results.length - limits.kept)) old.button.parentElement.remove();
  if (show || !current) look(result);
}

function look(result) {
  const { answer } = current = result;
  for (const { button } of results) button.setAttribute("aria-pressed", String(button === result.button));
  result.button.scrollIntoView({ block: "nearest", inline: "nearest" });
  part("answer").hidden = false;
  part("name").textContent = answer.name;
  part("k").max = answer.modes.length;
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
  lookAt(answer.modes.slice(0, k));
}

function showModes() {
  const modes = current.answer.modes.slice(0, k);
  part("k").value = part("k-shown").value = modes.length;
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
    row.addEventListener("click", () => goTo(place));
    return row;
  });
  document.querySelector(`#${table} tbody`).replaceChildren(...rows);
}

// The place in the file is asked for only if the reader wants it.
async function showTaken() {
  const isWanted = () => asked && asked === current && part("show-taken")?.checked;
  const asked = current;
  part("taken").hidden = true;
  drawTaken(null);
  if (!isWanted()) return;
  const place = await ask(`/answers/${encodeURIComponent(asked.answer.key)}/taken`).catch(complain);
  if (!place || !isWanted()) return;
  const at = place.reason ?? (place.where ? `${place.where} (${degrees(place)})` : degrees(place));
  part("taken").textContent = place.reason ? `The file says no place: ${at}.` : `The place in the file: ${at}.`;
  part("taken").hidden = false;
  drawTaken(place.reason ? null : place);
}

// ---- events

part("files")?.addEventListener("change", ({ target }) => {
  const files = [...target.files];
  target.value = ""; // so that the same file can be chosen again
  locatePictures(files);
});
for (const name of part("drop") ? ["dragenter", "dragover", "dragleave", "drop"] : []) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    part("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") locatePictures([...event.dataTransfer.files]);
  });
}
part("words")?.addEventListener("submit", (event) => {
  event.preventDefault();
  locateWords(part("text").value);
});
part("k").addEventListener("input", ({ target }) => {
  k = Number(target.value);
  showModes();
});
part("show-taken")?.addEventListener("change", showTaken);
for (const box of document.querySelectorAll("[data-layer]")) {
  want(box.dataset.layer, box.checked);
  box.addEventListener("change", () => want(box.dataset.layer, box.checked));
}
