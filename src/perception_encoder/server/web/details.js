// The properties of an image, as a description list. What a camera wrote leads to images like it.

import { copyButton, h } from "./dom.js";
import { bytes, clock, counted, degrees, pixels, time, wallClock } from "./format.js";
import { toX, toY } from "./mercator.js";
import { momentOf } from "./items.js";
import { linkTo, state } from "./router.js";
import { EMPTY, inRegion } from "./state.js";
import { worldOutline } from "./world-map.js";

const AROUND = 0.05; // degrees to each side of a place
const INSET = 0.035; // of the world's width, on the small map

/** Columns that have a row of their own here; others are listed by their names. */
const SHOWN = new Set(
  ("taken_at taken_offset latitude longitude altitude place country camera lens iso exposure_time " +
    "f_number focal_length rating title caption keywords start end frame_time damaged_packets").split(" "),
);

/** An item's title and caption, path, what its camera wrote, size, and further columns. */
export function details(item) {
  const { metadata } = item;
  const others = Object.entries(metadata).filter(([name]) => !SHOWN.has(name));
  const moment = momentOf(item);
  const rows = [
    ["Moment", moment && `${clock(moment.start)} – ${clock(moment.end)}`],
    ["Damaged", metadata.damaged_packets && counted(metadata.damaged_packets, "packet")],
    ["Taken", taken(metadata)],
    ["Place", place(metadata)],
    ["Altitude", has(metadata.altitude) && `${Math.round(metadata.altitude)} m`],
    ["Camera", alike("camera", metadata.camera)],
    ["Lens", alike("lens", metadata.lens)],
    ["Exposure", exposure(metadata)],
    ["Rating", rating(metadata.rating)],
    ["Keywords", keywords(metadata.keywords)],
    ["Pixels", pixels(item)],
    ["Size", bytes(item.bytes)],
    ["Modified", item.modified && time(item.modified)],
    ...others,
    ["SHA-256", item.sha256 && h("code", { title: item.sha256 }, `${item.sha256.slice(0, 16)}…`)],
  ];
  const texts = [metadata.title, metadata.caption].filter(Boolean);
  return h(
    "div",
    { class: "details" },
    texts.map((text) => h("p", { class: "caption-of" }, text)),
    h("p", { class: "path" }, h("code", {}, item.name)),
    copyButton("Copy path", item.name),
    h(
      "dl",
      {},
      rows
        .filter(([, value]) => has(value) && value !== false && value !== "")
        .map(([name, value]) => [
          h("dt", {}, name),
          h("dd", {}, value instanceof Node || Array.isArray(value) ? value : String(value)),
        ]),
    ),
    smallMap(metadata),
  );
}

const has = (value) => value !== null && value !== undefined;

/** A link to the images that meet filters, by when they were taken. */
const linkToFiltered = (filters, title, text) =>
  linkTo({ ...EMPTY, index: state().index, sort: "-taken", filters }, { title }, text);

const alike = (column, value) =>
  value && linkToFiltered([{ column, op: "=", value }], `Images with this ${column}`, value);

function taken({ taken_at: at, taken_offset: offset }) {
  if (!at) return null;
  const day = at.slice(0, 10);
  const filters = [
    { column: "taken_at", op: ">=", value: `${day}T00:00:00` },
    { column: "taken_at", op: "<=", value: `${day}T23:59:59.999` },
  ];
  const link = linkToFiltered(filters, "Images of this day", wallClock(at));
  return has(offset) ? [link, h("span", { class: "soft" }, ` ${zone(offset)}`)] : link;
}

function zone(minutes) {
  const [hours, rest] = [Math.floor(Math.abs(minutes) / 60), Math.abs(minutes) % 60];
  const written = rest ? `${hours}:${String(rest).padStart(2, "0")}` : hours;
  return `UTC${minutes < 0 ? "−" : "+"}${written}`;
}

function place({ place: name, country, latitude, longitude }) {
  const parts = [name, country].filter(Boolean);
  const column = name ? "place" : "country";
  if (parts.length) {
    const filters = [{ column, op: "=", value: name ?? country }];
    return linkToFiltered(filters, "Images of this place", parts.join(", "));
  }
  if (!has(latitude) || !has(longitude)) return null;
  const around = inRegion([], regionAround(latitude, longitude, AROUND));
  return linkToFiltered(around, "Images taken nearby", degrees(latitude, longitude, 4));
}

const regionAround = (latitude, longitude, by) => ({
  south: Math.max(-90, latitude - by),
  north: Math.min(90, latitude + by),
  west: Math.max(-180, longitude - by),
  east: Math.min(180, longitude + by),
});

function exposure({ exposure_time: seconds, f_number: stop, iso, focal_length: length }) {
  const parts = [
    seconds > 0 && (seconds < 0.4 ? `1/${Math.round(1 / seconds)} s` : `${round(seconds)} s`),
    stop > 0 && `f/${round(stop)}`,
    iso > 0 && `ISO ${iso}`,
    length > 0 && `${round(length)} mm`,
  ];
  return parts.filter(Boolean).join(" · ");
}

const round = (number) => String(Math.round(number * 10) / 10);

function rating(number) {
  if (!has(number)) return null;
  if (number < 0) return "rejected";
  const stars = "★".repeat(number) + "☆".repeat(5 - number);
  return h("span", { role: "img", "aria-label": `${number} of 5` }, stars);
}

function keywords(written) {
  if (!written) return null;
  return written
    .split(";")
    .map((one) => one.trim())
    .filter(Boolean)
    .map((value) => [
      linkToFiltered([{ column: "keywords", op: "contains", value }], `Images with “${value}”`, value),
      " ",
    ]);
}

/** The place on a part of the world; it leads to the map. */
function smallMap({ latitude, longitude }) {
  if (!has(latitude) || !has(longitude)) return null;
  const { svg, show } = worldOutline();
  const [x, y] = [toX(longitude), toY(latitude)];
  show(x - INSET, y - INSET / 2, 2 * INSET, INSET);
  const filters = inRegion([], regionAround(latitude, longitude, 2));
  return linkTo(
    { ...EMPTY, view: "places", index: state().index, filters },
    { class: "small-map", "aria-label": "Show the place on the map" },
    svg,
    h("span", { class: "dot" }),
  );
}
