// What can be done with the selected images: mark them, copy their paths, download them, export a list.

import { original, post } from "./api.js";
import { announce, copyButton, downloadFrom, h, icon, save } from "./dom.js";
import { counted, fileName } from "./format.js";
import { markButtons } from "./marks.js";

/**
 * Makes the bar. It is hidden while nothing is selected.
 * @param {Selection} selection
 * @param {object} page
 * @param {() => string} page.indexName
 * @param {() => void} page.cleared moves the focus, which would be lost with the bar.
 */
export function selectionBar(root, selection, { indexName, cleared }) {
  const button = (mark, label, act) =>
    h("button", { type: "button", class: "quiet", onclick: act }, icon(mark), h("span", {}, label));
  const number = h("strong", { role: "status", "aria-live": "polite" });
  const fetchAll = button("download", "Download", async () => {
    fetchAll.disabled = true;
    number.textContent = `Preparing ${counted(selection.size, "image")}…`;
    const failure = await downloadAll(selection.items, indexName());
    fetchAll.disabled = false;
    follow();
    if (failure) number.textContent = failure.message;
  });
  root.append(
    number,
    ...markButtons(selection, cleared),
    copyButton("Copy paths", () => selection.items.map((item) => item.name).join("\n")),
    fetchAll,
    button("table", "Export CSV", () => save("images.csv", asCsv(selection.items), "text/csv")),
    button("close", "Clear", () => {
      selection.clear();
      cleared();
    }),
  );
  function follow() {
    root.hidden = !selection.size;
    number.textContent = selection.size ? `${counted(selection.size, "image")} selected` : "";
  }
  return { follow };
}

/** Saves one image as it is, several as a zip file; returns the failure, if there is one. */
async function downloadAll(items, index) {
  if (items.length === 1) {
    const [{ id, member, uri }] = items;
    downloadFrom(original(id, index), fileName(member ?? uri));
    return null;
  }
  try {
    const reply = await post("v1/items/download", { index, ids: items.map(({ id }) => id) });
    save("images.zip", await reply.blob());
    announce("Downloaded");
    return null;
  } catch (failure) {
    return failure;
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
