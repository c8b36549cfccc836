// Saving what is shown: JSON, CSV and the drawing, as files that the browser downloads.

// A file name that every system takes: the image's, with another ending.
export function fileName(name, ending) {
  const stem = name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}._-]+/gu, "_").replace(/^[._]+/, "").slice(0, 100);
  return `${stem || "image"}-found.${ending}`;
}

const ORDERS = /[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g;

// As detseg.csv_text: no control characters, and an apostrophe before what a spreadsheet would run.
function plain(value) {
  const text = value.replace(ORDERS, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  const bare = text.replace(/^'+/, "");
  return /^[=+@＝＋－＠-]/.test(bare) && Number.isNaN(Number(bare)) ? `'${text}` : text;
}

function cell(value) {
  const text = typeof value === "string" ? plain(value) : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// Rows as RFC 4180 has them.
export function toCsv(rows) {
  return rows.map((row) => row.map(cell).join(",") + "\r\n").join("");
}

export function tableOf(image, found) {
  if (found.objects) {
    const rows = found.objects.map((o) => [image, o.name, o.label, o.score, ...o.box]);
    return [["image", "name", "label", "score", "x1", "y1", "x2", "y2"], ...rows];
  }
  if (found.mask) {
    const rows = found.classes.map((c) => [image, c.name, c.label, c.share, c.probability]);
    return [["image", "name", "label", "share", "probability"], ...rows];
  }
  return [["image", "name", "label", "probability"], ...found.classes.map((c) => [image, c.name, c.label, c.probability])];
}

export function saveFile(name, content, type) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
