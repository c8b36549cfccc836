// Drawing: the image with boxes, masks and names, at any size; the screen and the saved file use the same.

const CROWDED = 0.25; // share of a name that others hide

// Black or white, whichever is read better on a colour "#rrggbb".
export function letterColor(color) {
  const linear = [1, 3, 5].map((at) => {
    const value = parseInt(color.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return luminance > 0.179 ? "#000" : "#fff";
}

// A scene on `context`, which is `width` x `height` pixels. A scene has
//   image, width, height   what is drawn on, and its size in the pixels that boxes are given in
//   objects, colors        the best first; by label
//   areas                  what paintAreas gives, or null
//   show                   boxes, names, masks (whether), opacity (of masks), every (name, also those on others)
//   lit                    the place of the object that stands out, or null
// `letters` is the height of names in pixels.
export function draw(context, width, height, scene, letters) {
  context.clearRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(scene.image, 0, 0, width, height);
  if (scene.areas && scene.show.masks) {
    context.save();
    context.globalAlpha = scene.show.opacity;
    context.drawImage(scene.areas.inner, 0, 0, width, height);
    context.globalAlpha = 1;
    context.drawImage(scene.areas.border, 0, 0, width, height);
    context.restore();
  }
  const line = Math.max(2, Math.round(Math.sqrt(width * height) / 380));
  const places = [];
  const lit = scene.objects[scene.lit] ?? null;
  for (const object of [...scene.objects].reverse()) {
    drawShape(context, width, height, scene, object, line, lit === null ? 1 : 0.3);
  }
  if (lit !== null) drawShape(context, width, height, scene, lit, 2 * line, 1);
  if (scene.show.names) {
    for (const object of lit === null ? scene.objects : [lit]) {
      drawName(context, width, height, scene, object, letters, places);
    }
  }
}

function drawShape(context, width, height, scene, object, line, alpha) {
  const across = width / scene.width;
  const down = height / scene.height;
  context.save();
  context.globalAlpha = alpha;
  context.strokeStyle = context.fillStyle = scene.colors[object.label];
  context.lineWidth = line;
  context.lineJoin = "round";
  if (object.polygons && scene.show.masks) {
    const path = new Path2D();
    for (const polygon of object.polygons) {
      for (let i = 0; i < polygon.length; i += 2) {
        path[i ? "lineTo" : "moveTo"](polygon[i] * across, polygon[i + 1] * down);
      }
      path.closePath();
    }
    context.globalAlpha = alpha * scene.show.opacity;
    context.fill(path);
    context.globalAlpha = alpha;
    context.lineWidth = line * 0.75;
    context.stroke(path);
    context.lineWidth = line;
  }
  if (scene.show.boxes) {
    const [x1, y1, x2, y2] = object.box;
    const [left, top] = [Math.round(x1 * across), Math.round(y1 * down)]; // whole pixels are sharp
    const w = Math.max(1, Math.round(x2 * across) - left - line);
    const h = Math.max(1, Math.round(y2 * down) - top - line);
    context.strokeRect(left + line / 2, top + line / 2, w, h); // inside of the box
  }
  context.restore();
}

// The name beside its box, at the first place that is in the image and hides least of other names.
function drawName(context, width, height, scene, object, letters, places) {
  const across = width / scene.width;
  const down = height / scene.height;
  const padding = letters * 0.3;
  const high = letters + 2 * padding;
  context.font = `600 ${letters}px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif`;
  const score = ` ${object.score.toFixed(2)}`;
  const room = Math.min(width * 0.6, width - 2 * padding) - context.measureText(score).width;
  const text = shortened(context, object.name, room) + score;
  const wide = context.measureText(text).width + 2 * padding;
  const [x1, y1, x2, y2] = object.box.map((value, i) => value * (i % 2 ? down : across));
  const left = Math.max(0, Math.min(x1, width - wide));
  const right = Math.max(0, x2 - wide);
  const wanted = [[left, y1 - high], [left, y1], [left, y2], [right, y1 - high], [right, y2 - high], [left, y2 - high]];
  const inside = wanted.filter(([, y]) => y >= 0 && y + high <= height);
  const covered = ([x, y]) => places.reduce((sum, [a, b, c, d]) => sum
    + Math.max(0, Math.min(x + wide, c) - Math.max(x, a)) * Math.max(0, Math.min(y + high, d) - Math.max(y, b)), 0);
  let best = null;
  for (const place of inside.length ? inside : [[left, 0]]) {
    if (best === null || covered(place) < covered(best)) best = place;
  }
  const [x, y] = best;
  if (!scene.show.every && covered(best) > CROWDED * wide * high) return; // it can be pointed at
  places.push([x, y, x + wide, y + high]);
  const color = scene.colors[object.label];
  context.fillStyle = color;
  context.fillRect(x, y, wide, high);
  context.fillStyle = letterColor(color);
  context.textBaseline = "middle";
  context.fillText(text, x + padding, y + high / 2);
}

function shortened(context, name, room) {
  const letters = [...name.replace(/\s+/g, " ").trim()];
  if (context.measureText(letters.join("")).width <= room) return letters.join("");
  let few = 0;
  let many = letters.length;
  while (few + 1 < many) {
    const middle = (few + many) >> 1;
    if (context.measureText(letters.slice(0, middle).join("") + "…").width <= room) few = middle;
    else many = middle;
  }
  return letters.slice(0, few).join("") + "…";
}

export function newCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

// How much smaller a canvas must be than an image: browsers have limits.
export function canvasScale(width, height) {
  return Math.min(1, Math.sqrt(16e6 / (width * height)));
}

// The label of each pixel of a grey image whose values are labels.
export function readLabels(image) {
  const scale = canvasScale(image.naturalWidth, image.naturalHeight);
  const canvas = newCanvas(Math.ceil(image.naturalWidth * scale), Math.ceil(image.naturalHeight * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false; // between two labels there is none
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const labels = new Uint8Array(canvas.width * canvas.height);
  for (let i = 0; i < labels.length; i++) labels[i] = pixels[4 * i];
  return { width: canvas.width, height: canvas.height, labels };
}

// Two canvases with the colour of each pixel's class: all pixels, and those beside another class.
// Nothing where the class is none of those `shown` (a Set of labels), or has no colour.
export function paintAreas({ width, height, labels }, colors, shown) {
  const canvases = [newCanvas(width, height), newCanvas(width, height)];
  const contexts = canvases.map((canvas) => canvas.getContext("2d"));
  const images = contexts.map((context) => context.createImageData(width, height));
  const [inner, border] = images.map((image) => new Uint32Array(image.data.buffer));
  const table = new Uint32Array(256);
  colors.forEach((color, label) => {
    if (!color || !shown.has(label)) return;
    const value = parseInt(color.slice(1), 16);
    const bytes = new Uint8Array([value >> 16, (value >> 8) & 255, value & 255, 255]);
    table[label] = new Uint32Array(bytes.buffer)[0]; // in the order that this machine has
  });
  const line = Math.max(1, Math.round(Math.sqrt(width * height) / 480));
  for (let y = 0, i = 0; y < height; y++) {
    const up = Math.max(0, y - line) * width;
    const down = Math.min(height - 1, y + line) * width;
    for (let x = 0; x < width; x++, i++) {
      const label = labels[i];
      const color = table[label];
      if (!color) continue;
      inner[i] = color;
      const row = i - x;
      const left = labels[row + Math.max(0, x - line)];
      const right = labels[row + Math.min(width - 1, x + line)];
      const others = left !== label || right !== label || labels[up + x] !== label || labels[down + x] !== label;
      if (others) border[i] = color;
    }
  }
  contexts.forEach((context, i) => context.putImageData(images[i], 0, 0));
  return { inner: canvases[0], border: canvases[1] };
}
