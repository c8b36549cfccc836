// Saving what is shown: JSON, CSV and the drawing, as files that the browser downloads.

// A file name that every system takes: the image's, with another ending.
export function fileName(name, ending) {
  const stem = name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}._-]+/gu, "_").replace(/^[._]+/, "").slice(0, 100);
  return `${stem || "image"}-found.${ending}`;
}

function cell(value) {
  const text = String(value);
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
