// Filters from the index's folders and columns: values to tick, texts, ranges of numbers and times.

import { get } from "./api.js";
import { $, h, icon, settled } from "./dom.js";
import { bytes, count, counted, date, span } from "./format.js";
import { isMomentFilter } from "./items.js";
import { go } from "./router.js";
import { regionOf, writtenFilters } from "./state.js";

const NAMES = {
  taken_at: "Taken",
  place: "Place",
  country: "Country",
  camera: "Camera",
  lens: "Lens",
  rating: "Rating",
  keywords: "Keywords",
  title: "Title",
  caption: "Caption",
  altitude: "Altitude, m",
  focal_length: "Focal length, mm",
  f_number: "Aperture, f/",
  exposure_time: "Exposure time, s",
  iso: "ISO",
  width: "Width, pixels",
  height: "Height, pixels",
  bytes: "File size, kB",
  mtime: "Modified",
};
// On the map, or of no use as a range.
const HIDDEN = new Set(["latitude", "longitude", "taken_offset", "start", "end", "frame_time"]);
const TEXTS = new Set(["title", "caption", "keywords"]); // too many values to list
const FOLDED = "near copies folded";
const PER_UNIT = { bytes: 1000 }; // shown in other units than stored
const SIGNS = {
  "=": "is",
  "!=": "is not",
  "<": "below",
  "<=": "up to",
  ">": "above",
  ">=": "from",
  contains: "has",
};

/**
 * Starts the panel, its button and the chips.
 * @param {(filters: object[], fold: boolean) => void} apply
 */
export function startFilters(apply) {
  const panel = $("#filters");
  const toggle = $("#filters-toggle");
  let now = null;
  let filledFor = null;
  const change = (filters, fold = now.fold) => apply(filters, fold);

  toggle.addEventListener("click", async () => {
    panel.hidden = !panel.hidden;
    toggle.setAttribute("aria-expanded", String(!panel.hidden));
    if (!panel.hidden) await fill();
  });

  async function fill() {
    const { name, rows } = now.of;
    if (filledFor !== `${name} ${rows}`) {
      filledFor = `${name} ${rows}`;
      panel.replaceChildren(h("span", { class: "spinner" }));
      try {
        const path = `v1/indexes/${encodeURIComponent(name)}`;
        const [{ columns }, { folders }] = await Promise.all([
          get(`${path}/facets`),
          get(`${path}/folders`),
        ]);
        panel.replaceChildren(...controls(columns, folders, () => now, change));
      } catch (failure) {
        filledFor = null;
        panel.replaceChildren(h("p", {}, failure.message));
      }
    }
    for (const control of panel.querySelectorAll("[data-column]"))
      control.dispatchEvent(new Event("follow"));
  }

  return {
    show(state, index) {
      now = { ...state, of: index };
      const cluster = state.cluster ? [clusterChip(state, index.name)] : [];
      const saved = state.saved && chip(`saved search: ${state.saved}`, () => go({ saved: "" }));
      $("#filter-chips").replaceChildren(...(saved ? [saved] : []), ...cluster, ...chips(state, change));
      const number = state.filters.length + (state.fold ? 1 : 0);
      $("span", toggle).textContent = number ? `Filters (${number})` : "Filters";
      if (!panel.hidden) fill();
    },
  };
}

function controls(columns, folders, now, change) {
  const made = folders.length > 1 ? [ofFolder(folders, now, change)] : [];
  const order = Object.keys(NAMES);
  const rank = (column) => (order.indexOf(column) + order.length + 1) % (order.length + 1);
  const offered = Object.entries(columns).filter(([column]) => !HIDDEN.has(column));
  for (const [column, facet] of offered.sort(([a], [b]) => rank(a) - rank(b))) {
    const control = facet.values
      ? ofValues(column, facet, now, change)
      : ofRange(column, facet, now, change);
    if (control) made.push(control);
  }
  const fold = h("input", {
    type: "checkbox",
    onchange: () => change(now().filters, fold.checked),
  });
  const foldRow = h(
    "label",
    { class: "choice", data: { column: "" } },
    fold,
    "Fold near copies under the best of them",
  );
  foldRow.addEventListener("follow", () => {
    fold.checked = now().fold;
  });
  const clear = h(
    "button",
    { type: "button", class: "quiet", onclick: () => change([], false) },
    "Clear all",
  );
  made.push(h("div", { class: "wide" }, foldRow, clear));
  return made;
}

const titleOf = (column) => NAMES[column] ?? column;

/** The filters without those of a column, with others in their place. */
const replaced = (filters, column, others) => [
  ...filters.filter((one) => one.column !== column),
  ...others,
];

function ofValues(column, { kind, values, has_more: hasMore }, now, change) {
  if (!values.length) return null;
  const listed = TEXTS.has(column) ? [] : values;
  const boxes = listed.map(({ value, count: number }) => {
    const box = h("input", { type: "checkbox", onchange: send });
    box.given = value;
    return [box, number];
  });
  const contains =
    kind === "text" && (hasMore || values.length > 8 || TEXTS.has(column))
      ? h("input", {
          type: "search",
          class: "contains",
          placeholder: "contains…",
          "aria-label": `${titleOf(column)} contains`,
          oninput: settled(send, 400),
        })
      : null;

  function send() {
    const chosen = boxes.filter(([box]) => box.checked).map(([box]) => box.given);
    const others = [];
    if (chosen.length) others.push({ column, op: "in", value: chosen });
    if (contains?.value.trim())
      others.push({ column, op: "contains", value: contains.value.trim() });
    change(replaced(now().filters, column, others));
  }

  const group = h(
    "fieldset",
    { data: { column } },
    h("legend", {}, titleOf(column)),
    contains,
    h(
      "div",
      { class: "values" },
      boxes.map(([box, number]) =>
        h(
          "label",
          { class: "choice" },
          box,
          h("span", { class: "name" }, shown(box.given)),
          h("span", { class: "soft" }, count(number)),
        ),
      ),
    ),
  );
  group.addEventListener("follow", () => {
    const mine = now().filters.filter((one) => one.column === column);
    const chosen =
      mine.find((one) => one.op === "in")?.value ??
      mine.filter((one) => one.op === "=").map((one) => one.value);
    for (const [box] of boxes) box.checked = chosen.includes(box.given);
    if (contains && document.activeElement !== contains)
      contains.value = mine.find((one) => one.op === "contains")?.value ?? "";
  });
  return group;
}

/** One folder of all; `folders` begins with the one that holds the others, if there is such a one. */
function ofFolder(folders, now, change) {
  const [{ path: root }] = folders;
  const isWithin = folders.every(({ path }) => path === root || path.startsWith(`${root}/`));
  const below = isWithin ? folders.slice(1) : folders;
  const keyOf = ({ column, op, value }) => JSON.stringify([column, op, value]);
  const select = h(
    "select",
    { "aria-label": "Folder", onchange: send },
    h("option", { value: "" }, "All folders"),
    below.map(({ path, images, filter }) =>
      h(
        "option",
        { value: keyOf(filter) },
        `${isWithin ? path.slice(root.length + 1) : path} (${count(images)})`,
      ),
    ),
  );

  function send() {
    const others = now().filters.filter((one) => !isFolder(one));
    const chosen = folders.find(({ filter }) => keyOf(filter) === select.value);
    change(chosen ? [...others, chosen.filter] : others);
  }

  const group = h("fieldset", { data: { column: "" } }, h("legend", {}, "Folder"), select);
  group.addEventListener("follow", () => {
    const chosen = now().filters.find(isFolder);
    select.value = chosen ? keyOf(chosen) : "";
  });
  return group;
}

const isFolder = ({ op }) => op === "starts_with";

function ofRange(column, { kind, min, max, years }, now, change) {
  if (min === null || min === max) return null;
  const form =
    column === "mtime" ? nanoseconds : kind === "time" ? moments : numbers(PER_UNIT[column] ?? 1);
  const field = (word, end) =>
    h("input", {
      type: form.type,
      step: "any",
      placeholder: form.write(end),
      "aria-label": `${titleOf(column)}, ${word}`,
      onchange: send,
    });
  const [low, high] = [field("from", min), field("up to", max)];

  function send() {
    const others = [];
    if (low.value) others.push({ column, op: ">=", value: form.read(low.value, false) });
    if (high.value) others.push({ column, op: "<=", value: form.read(high.value, true) });
    change(replaced(now().filters, column, others));
  }

  const ofYears = (years ?? []).toReversed().map(({ value: year, count: number }) => {
    const act = () => {
      const isChosen = button.getAttribute("aria-pressed") === "true";
      [low.value, high.value] = isChosen ? ["", ""] : [`${year}-01-01`, `${year}-12-31`];
      send();
    };
    const properties = { type: "button", class: "quiet", title: counted(number, "image"), onclick: act };
    const button = h("button", properties, year);
    return button;
  });

  const group = h(
    "fieldset",
    { data: { column } },
    h("legend", {}, titleOf(column)),
    h("div", { class: "range" }, low, h("span", { class: "soft" }, "to"), high),
    ofYears.length > 1 && h("div", { class: "years" }, ofYears),
  );
  group.addEventListener("follow", () => {
    const end = (op) => now().filters.find((one) => one.column === column && one.op === op)?.value;
    low.value = end(">=") === undefined ? "" : form.write(end(">="));
    high.value = end("<=") === undefined ? "" : form.write(end("<="));
    for (const button of ofYears) {
      const year = button.textContent;
      const isChosen = low.value === `${year}-01-01` && high.value === `${year}-12-31`;
      button.setAttribute("aria-pressed", String(isChosen));
    }
  });
  return group;
}

/** Numbers, divided by something for the eye. */
const numbers = (unit) => ({
  type: "number",
  read: (written) => Math.round(Number(written) * unit * 1e6) / 1e6,
  write: (value) => String(Math.round((value / unit) * 1000) / 1000),
});

/** The index keeps file times as whole nanoseconds; people choose days. */
const nanoseconds = {
  type: "date",
  read: (written, isEnd) => (Date.parse(`${written}T00:00`) + (isEnd ? 86_399_999 : 0)) * 1e6,
  write: (value) => day(new Date(value / 1e6)),
};

const moments = {
  type: "date",
  read: (written, isEnd) => `${written}T${isEnd ? "23:59:59.999" : "00:00:00"}`,
  write: (value) => value.slice(0, 10),
};

const day = (date) => {
  const two = (number) => String(number).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
};

const shown = (value) => (value === true ? "yes" : value === false ? "no" : String(value));

/**
 * Chips that take filters away, as list items.
 * @param {(filters: object[], fold: boolean) => void} change
 */
export function chips({ filters, fold }, change) {
  const region = regionOf(filters);
  const made = [];
  for (const filter of filters) {
    const isPart = region?.members.includes(filter);
    if (isPart && filter !== region.members[0]) continue;
    const members = isPart ? region.members : [filter];
    const others = filters.filter((one) => !members.includes(one));
    const text = isPart ? inDegrees(region.region) : inWords(filter);
    made.push(chip(text, () => change(others, fold)));
  }
  if (fold) made.push(chip(FOLDED, () => change(filters, false)));
  return made;
}

/** What limits a search, in words. */
export function describeFilters({ filters, fold }) {
  const region = regionOf(filters);
  const others = filters.filter((one) => !region?.members.includes(one)).map(inWords);
  return [...(region ? [inDegrees(region.region)] : []), ...others, ...(fold ? [FOLDED] : [])];
}

/** A chip of a cluster; it gets the name that the cluster has. */
function clusterChip({ cluster, k, filters }, index) {
  const made = chip(`cluster ${Number(cluster) + 1}`, () => go({ cluster: "", k: "" }));
  get("v1/clusters", { index, k, filters: writtenFilters(filters), examples: 0 })
    .then(({ clusters }) => {
      const name = clusters?.[cluster]?.name;
      if (name) made.replaceWith(chip(`cluster: ${name}`, () => go({ cluster: "", k: "" })));
    })
    .catch(() => {}); // it keeps its number
  return made;
}

function inDegrees({ south, north, west, east }) {
  const digits = Math.max(0, Math.min(5, Math.ceil(-Math.log10((north - south) / 8))));
  return `${span(south, north, "N", "S", digits)}, ${span(west, east, "E", "W", digits)}`;
}

function chip(text, remove) {
  return h(
    "li",
    {},
    h(
      "button",
      { type: "button", "aria-label": `Remove the filter: ${text}`, onclick: remove },
      text,
      icon("close"),
    ),
  );
}

function inWords({ column, op, value }) {
  if (isMomentFilter({ column, op })) return "moments of videos";
  const name = (NAMES[column] ?? column).split(",")[0];
  if (op === "is_null") return `${name}: none`;
  if (op === "starts_with") return `folder: ${value.split("/").filter(Boolean).slice(-2).join("/")}`;
  if (op === "has") return `${name}: any`;
  if (op === "in") return `${name}: ${value.map(shown).join(", ")}`;
  let written = shown(value);
  if (column === "bytes") written = bytes(value);
  else if (column === "mtime") written = date(nanoseconds.write(value));
  else if (/^\d{4}-\d\d-\d\dT/.test(written)) written = date(written.slice(0, 10));
  return `${name} ${SIGNS[op] ?? op} ${written}`;
}
