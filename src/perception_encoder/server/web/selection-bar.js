// What can be done with the selected images: copy their paths, download them, export a list.

import { original } from "./api.js";
import { announce, copyButton, download, downloadFrom, h, icon } from "./dom.js";
import { counted, fileName } from "./format.js";

const PAUSE = 250; // milliseconds between downloads; browsers drop some of those at once
const MOST = 50; // images that are downloaded one after the other

/**
 * Makes the bar. It is hidden while nothing is selected.
 * @param {Selection} selection
 * @param {() => string} indexName
 */
export function selectionBar(root, selection, indexName) {
  const button = (mark, label, act) =>
    h("button", { type: "button", class: "quiet", onclick: act }, icon(mark), h("span", {}, label));
  const number = h("strong", { role: "status", "aria-live": "polite" });
  const fetchAll = button("download", "Download", () => downloadAll(selection.items, indexName()));
  root.append(
    number,
    copyButton("Copy paths", () => selection.items.map((item) => item.name).join("\n")),
    fetchAll,
    button("table", "Export CSV", () => download("images.csv", asCsv(selection.items), "text/csv")),
    button("close", "Clear", () => selection.clear()),
  );
  return {
    follow() {
      root.hidden = !selection.size;
      number.textContent = selection.size ? `${counted(selection.size, "image")} selected` : "";
      fetchAll.disabled = selection.size > MOST;
      fetchAll.title = fetchAll.disabled ? `Up to ${MOST} images can be downloaded at once` : "";
    },
  };
}

async function downloadAll(items, index) {
  announce(`Downloading ${counted(items.length, "image")}`);
  for (const item of items) {
    downloadFrom(original(item.id, index), fileName(item.member ?? item.uri));
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}

/** A table of images with everything that the index holds of them; RFC 4180. */
export function asCsv(items) {
  const metadata = [...new Set(items.flatMap((item) => Object.keys(item.metadata)))];
  const known = ["name", "score", "label", "width", "height", "bytes", "modified", "sha256"];
  const columns = known.filter((column) => items.some((item) => item[column] != null));
  const rows = items.map((item) => [
    ...columns.map((column) => item[column]),
    ...metadata.map((column) => item.metadata[column]),
  ]);
  return [[...columns, ...metadata], ...rows].map((row) => row.map(field).join(",")).join("\r\n");
}

function field(value) {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
