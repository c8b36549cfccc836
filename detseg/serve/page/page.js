// The page: takes an image, asks the server what is in it, shows that and lets it be filtered and saved.
// Names of classes and files are text: they are written by textContent and on the canvas, never as HTML.

import { ask, post, readFile, readUrl } from "./ask.js";
import { canvasScale, draw, newCanvas, paintAreas, readLabels } from "./draw.js";
import { fileName, saveFile, tableOf, toCsv } from "./save.js";

const LOWEST = 0.05; // scores that are asked for, so that the slider has something to show
const LIKELY = 0.01; // probability from which on classes are listed at first
const MOST_ROWS = 300;

// As `detseg.console` shows text: what is no character or turns the direction of text round is written as an escape.
const ORDERS = /[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]/g;
const plain = (text) => text.replace(ORDERS, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);

const $ = (id) => document.getElementById(id);
const state = { model: null, file: null, image: null, answer: null, labels: null, hidden: new Set(), lit: null };
let running = null; // the AbortController of the request under way

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const percent = (share) => `${(100 * share).toFixed(share >= 0.0995 ? 0 : 1)} %`;
const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

// ---------------------------------------------------------------- asking the server

const lowest = () => Math.min(LOWEST, state.model.score_threshold);

function predict(file, preview, signal) {
  const options = new URLSearchParams();
  if (state.model.score_threshold !== null) options.set("score_threshold", lowest());
  if (preview) options.set("preview", "true");
  return ask(`predict?${options}`, post(file, signal));
}

async function take(files) {
  if (!files.length || !state.model) return;
  const file = files[0];
  const name = file.name || "pasted image";
  running?.abort();
  const mine = (running = new AbortController());
  complain(files.length > 1 ? `One image at a time: this is ${name}.` : "");
  try {
    if (file.size > state.model.limits.bytes) {
      throw new Error(`the file is larger than ${state.model.limits.bytes / 1e6} MB, the most that is taken`);
    }
    let image = await readFile(file);
    if (mine.signal.aborted) return;
    begin(name, image);
    let answer = await predict(file, !image, mine.signal);
    if (image && (image.width !== answer.width || image.height !== answer.height)) {
      answer = await predict(file, true, mine.signal); // turned or scaled otherwise than by the server
    }
    if (answer.preview) image = await readUrl(answer.preview);
    const labels = answer.mask ? readLabels(await readUrl(answer.mask)) : null;
    if (mine.signal.aborted) return;
    Object.assign(state, { file: name, image, answer, labels, hidden: new Set(), lit: null });
    finish();
  } catch (error) {
    if (error.name === "AbortError" || mine.signal.aborted) return;
    Object.assign(state, { file: null, image: null, answer: null });
    showResult(false);
    $("figure").hidden = true;
    complain(`${name}: ${error.message}`);
  }
}

function complain(message) {
  $("error").textContent = plain(message);
  $("error").hidden = !message;
  if (message) $("error").scrollIntoView({ block: "nearest" });
}

function showResult(shown) {
  document.querySelector("main").classList.toggle("found", shown);
  $("panel").hidden = !shown;
  $("panel").inert = false;
  $("choose").textContent = shown ? "Another image" : "Choose an image";
}

function begin(name, image) {
  $("file-name").textContent = plain(name);
  $("status").textContent = "Predicting…";
  $("figure").hidden = false;
  $("figure").classList.add("working");
  $("panel").inert = true; // it shows the image before
  if (!image) return;
  Object.assign(state, { image, answer: null });
  $("canvas").setAttribute("aria-label", `Image ${name}`);
  paint();
}

function finish() {
  $("figure").classList.remove("working");
  showResult(true);
  buildLegend();
  update();
}

// ---------------------------------------------------------------- what is shown

const threshold = () => Number($("score").value);

function shownObjects() {
  const objects = state.answer?.objects ?? [];
  return objects.filter((o) => o.score >= threshold() && !state.hidden.has(o.label));
}

function shownClasses() {
  const classes = state.answer?.classes ?? [];
  if (state.answer?.mask) return classes.filter((c) => !state.hidden.has(c.label));
  return classes.filter((c) => c.probability >= threshold());
}

function scene() {
  const { image, answer, model, labels } = state;
  const show = {
    boxes: $("show-boxes").checked,
    names: $("show-names").checked,
    masks: labels !== null || $("show-masks").checked,
    opacity: Number($("opacity").value),
    every: false,
  };
  return {
    image, show, lit: state.lit, colors: model.colors, objects: shownObjects(),
    width: answer?.width ?? image.width, height: answer?.height ?? image.height, areas: answer && labels ? areas() : null,
  };
}

let painted = {};

function areas() {
  const shown = new Set(shownClasses().map((c) => c.label));
  const key = JSON.stringify([...shown]);
  if (painted.labels !== state.labels || painted.key !== key) {
    painted = { labels: state.labels, key, areas: paintAreas(state.labels, state.model.colors, shown) };
  }
  return painted.areas;
}

function paint() {
  if (!state.image || $("figure").hidden) return;
  const canvas = $("canvas");
  const it = scene();
  const ratio = window.devicePixelRatio || 1;
  const room = Math.max(300, window.innerHeight * 0.78);
  const scale = Math.min($("frame").clientWidth / it.width, room / it.height, 4);
  canvas.style.width = `${Math.max(1, it.width * scale)}px`;
  canvas.style.height = `${Math.max(1, it.height * scale)}px`;
  canvas.width = Math.max(1, Math.round(it.width * scale * ratio));
  canvas.height = Math.max(1, Math.round(it.height * scale * ratio));
  const letters = (window.innerWidth < 576 ? 10 : 13) * ratio;
  draw(canvas.getContext("2d"), canvas.width, canvas.height, it, letters);
}

function summary() {
  const { answer, model } = state;
  if (answer.objects) {
    const counts = countsOf(shownObjects());
    const each = [...counts].sort((a, b) => b[1] - a[1]).map(([label, n]) => `${n} ${model.names[label]}`);
    return each.slice(0, 6).join(", ") + (each.length > 6 ? ", …" : "") || "nothing found";
  }
  const classes = shownClasses().slice(0, 3);
  return classes.map((c) => `${c.name} ${percent(c.share ?? c.probability)}`).join(", ") || "nothing";
}

function countsOf(objects) {
  const counts = new Map();
  for (const { label } of objects) counts.set(label, (counts.get(label) ?? 0) + 1);
  return counts;
}

function update() {
  if (!state.answer) return;
  const { answer } = state;
  $("score-value").textContent = threshold().toFixed(2);
  $("opacity-value").textContent = percent(Number($("opacity").value));
  if (answer.objects) updateObjects();
  else if (!answer.mask) listLikely();
  $("status").textContent = `${summary()} · ${answer.seconds.toFixed(2)} s`;
  $("canvas").setAttribute("aria-label", `Image ${state.file}: ${summary()}`);
  paint();
}

function updateObjects() {
  const above = state.answer.objects.filter((o) => o.score >= threshold());
  const counts = countsOf(above);
  for (const item of $("legend").children) {
    const number = counts.get(Number(item.dataset.label)) ?? 0;
    item.querySelector(".count").textContent = number;
    item.classList.toggle("none", !number);
  }
  const shown = shownObjects();
  const all = state.answer.objects.length;
  $("total").textContent = count(shown.length, "object");
  $("nothing").hidden = shown.length > 0;
  $("nothing").textContent = all ? "None is shown: lower the minimum score or tick classes." : "The model finds nothing here.";
  const rows = shown.slice(0, MOST_ROWS).map((object, at) => {
    const row = element("tr");
    row.append(element("td", object.name), element("td", object.score.toFixed(3), "number"));
    row.append(element("td", object.box.map((value) => Math.round(value)).join(", "), "number box"));
    row.addEventListener("pointerenter", () => light(at));
    row.addEventListener("pointerleave", () => light(null));
    return row;
  });
  $("rows").replaceChildren(...rows);
}

// ---------------------------------------------------------------- the legend

function legendRow(label, name, text) {
  const item = element("li");
  item.dataset.label = label;
  const row = element("label");
  const box = element("input");
  box.type = "checkbox";
  box.checked = true;
  box.addEventListener("change", () => {
    state.hidden[box.checked ? "delete" : "add"](label);
    state.lit = null;
    update();
  });
  row.append(box, swatch(label), element("span", name, "class-name"), element("span", text, "count"));
  item.append(row);
  return item;
}

function swatch(label) {
  const made = element("span", undefined, "swatch");
  made.style.backgroundColor = state.model.colors[label] || "transparent";
  return made;
}

function buildLegend() {
  const { answer, model } = state;
  $("objects").hidden = !answer.objects;
  $("nothing").hidden = true;
  $("total").textContent = "";
  $("legend").replaceChildren();
  if (answer.objects) {
    const sure = countsOf(answer.objects.filter((o) => o.score >= threshold()));
    const every = [...countsOf(answer.objects)];
    every.sort((a, b) => (sure.get(b[0]) ?? 0) - (sure.get(a[0]) ?? 0) || b[1] - a[1] || a[0] - b[0]);
    $("legend").append(...every.map(([label]) => legendRow(label, model.names[label], "0")));
  } else if (answer.mask) {
    $("total").textContent = "share of the image";
    $("legend").append(...answer.classes.map((c) => legendRow(c.label, c.name, percent(c.share))));
  }
}

function listLikely() {
  const shown = shownClasses();
  const rows = shown.slice(0, MOST_ROWS).map((one) => {
    const item = element("li");
    const row = element("div", undefined, "row");
    const bar = element("span", undefined, "bar");
    bar.style.width = `${100 * one.probability}%`;
    row.append(bar, swatch(one.label), element("span", one.name, "class-name"));
    row.append(element("span", percent(one.probability), "count"));
    item.append(row);
    return item;
  });
  $("legend").replaceChildren(...rows);
  $("total").textContent = `${shown.length} of ${state.answer.classes.length}`;
  $("nothing").hidden = shown.length > 0;
  $("nothing").textContent = "No class has this probability: move the slider to the left.";
}

// ---------------------------------------------------------------- one object among others

function light(at) {
  if (state.lit === at) return;
  state.lit = at;
  [...$("rows").children].forEach((row, i) => row.classList.toggle("lit", i === at));
  paint();
}

function objectAt(event) {
  const place = $("canvas").getBoundingClientRect();
  const x = ((event.clientX - place.left) / place.width) * state.answer.width;
  const y = ((event.clientY - place.top) / place.height) * state.answer.height;
  let best = null;
  let least = Infinity;
  shownObjects().forEach(({ box: [x1, y1, x2, y2] }, at) => {
    const area = (x2 - x1) * (y2 - y1);
    if (x >= x1 && x < x2 && y >= y1 && y < y2 && area < least) [best, least] = [at, area];
  });
  return best;
}

// ---------------------------------------------------------------- saving

function found() {
  const { preview, ...answer } = state.answer;
  const shown = { image: state.file, model: state.model.name, ...answer };
  if (answer.objects) return { ...shown, score_threshold: threshold(), objects: shownObjects() };
  return { ...shown, classes: shownClasses() };
}

function saveImage() {
  const it = { ...scene(), lit: null };
  it.show.every = true; // nobody can point at objects in a file
  const scale = canvasScale(it.width, it.height);
  const [width, height] = [it.width, it.height].map((side) => Math.max(1, Math.round(side * scale)));
  const letters = Math.max(11, Math.sqrt(width * height) / 48);
  const lines = state.labels || state.answer.objects ? [] : shownClasses().slice(0, 5);
  const line = letters * 1.5;
  const canvas = newCanvas(width, height + Math.ceil(lines.length ? line * (lines.length + 0.6) : 0));
  const context = canvas.getContext("2d");
  const image = newCanvas(width, height);
  draw(image.getContext("2d"), width, height, it, letters);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0);
  context.fillStyle = "#000";
  context.font = `${letters}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  lines.forEach((one, i) => {
    context.fillText(`${percent(one.probability)}  ${one.name}`, letters / 2, height + line * (i + 0.8), width - letters);
  });
  canvas.toBlob((blob) => {
    if (blob) saveFile(fileName(state.file, "png"), blob, "image/png");
    else complain("The browser cannot write an image of this size.");
  }, "image/png");
}

// ---------------------------------------------------------------- what the user does

function listen() {
  $("file").addEventListener("change", () => {
    take([...$("file").files]);
    $("file").value = ""; // the same file may be chosen again
  });
  document.addEventListener("paste", (event) => take([...(event.clipboardData?.files ?? [])]));
  let depth = 0;
  const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const curtain = (change) => {
    depth = Math.max(0, depth + change);
    $("curtain").hidden = !depth;
  };
  addEventListener("dragenter", (event) => holdsFiles(event) && curtain(1));
  addEventListener("dragleave", (event) => holdsFiles(event) && curtain(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    curtain(-depth);
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length) take(files);
    else complain("That is no file: save the image first, or copy and paste it.");
  });
  for (const id of ["score", "opacity"]) {
    $(id).addEventListener("input", () => {
      state.lit = null;
      update();
    });
  }
  for (const id of ["show-boxes", "show-names", "show-masks"]) $(id).addEventListener("change", paint);
  $("canvas").addEventListener("pointermove", (event) => state.answer?.objects && light(objectAt(event)));
  $("canvas").addEventListener("pointerleave", () => light(null));
  $("save-json").addEventListener("click", () => {
    saveFile(fileName(state.file, "json"), `${JSON.stringify(found(), null, 2)}\n`, "application/json");
  });
  $("save-csv").addEventListener("click", () => {
    saveFile(fileName(state.file, "csv"), toCsv(tableOf(state.file, found())), "text/csv");
  });
  $("save-image").addEventListener("click", saveImage);
  new ResizeObserver(paint).observe($("frame"));
  addEventListener("resize", paint);
}

const TASKS = {
  detect: "finds objects", localize: "finds one object", segment: "finds the class of every pixel",
  classify: "says what an image shows",
};

function describe(model) {
  document.title = `${model.name} – detseg`;
  $("name").textContent = model.name;
  const what = model.masks ? "finds objects and their masks" : TASKS[model.task] ?? model.task;
  $("about").textContent = `${what} · ${model.names.length} ${model.names.length === 1 ? "class" : "classes"} · ${model.size} px`;
  const { bytes, pixels } = model.limits;
  $("takes").textContent = `${model.formats.join(", ")}; up to ${bytes / 1e6} MB, ${pixels / 1e6} megapixels`;
  const finds = model.score_threshold !== null;
  $("score").min = finds ? lowest() : 0;
  $("score").value = finds ? model.score_threshold : LIKELY;
  $("score-label").textContent = finds ? "Minimum score" : "Minimum probability";
  $("score-row").hidden = model.task === "segment";
  $("opacity-row").hidden = !(model.masks || model.task === "segment");
  $("checks").hidden = !finds;
  $("show-masks-row").hidden = !model.masks;
}

listen();
try {
  state.model = await ask("model");
  state.model.names = state.model.names.map(plain);
  describe(state.model);
} catch (error) {
  complain(error.message);
}
