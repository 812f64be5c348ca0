// The properties of an image, as a description list.

import { copyButton, h } from "./dom.js";
import { bytes, pixels, time } from "./format.js";

/** A `<dl>` of an item's path, size, times, and the columns that its source brought. */
export function details(item) {
  const rows = [
    ["Pixels", pixels(item)],
    ["Size", bytes(item.bytes)],
    ["Modified", item.modified && time(item.modified)],
    ...Object.entries(item.metadata).map(([name, value]) => [name, value]),
    ["SHA-256", item.sha256 && h("code", { title: item.sha256 }, `${item.sha256.slice(0, 16)}…`)],
  ];
  return h(
    "div",
    { class: "details" },
    h("p", { class: "path" }, h("code", {}, item.name)),
    copyButton("Copy path", item.name),
    h(
      "dl",
      {},
      rows
        .filter(([, value]) => value !== null && value !== undefined && value !== "")
        .map(([name, value]) => [
          h("dt", {}, name),
          h("dd", {}, value instanceof Node ? value : String(value)),
        ]),
    ),
  );
}
