// Filters from the index's folders and columns: values to tick, texts, ranges of numbers and times.

import { get } from "./api.js";
import { $, h, icon, settled } from "./dom.js";
import { bytes, count } from "./format.js";
import { go } from "./router.js";

const NAMES = {
  width: "Width, pixels",
  height: "Height, pixels",
  bytes: "File size, kB",
  mtime: "Modified",
};
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
      showChips(state, change);
      const number = state.filters.length + (state.fold ? 1 : 0);
      $("span", toggle).textContent = number ? `Filters (${number})` : "Filters";
      if (!panel.hidden) fill();
    },
  };
}

function controls(columns, folders, now, change) {
  const made = folders.length > 1 ? [ofFolder(folders, now, change)] : [];
  for (const [column, facet] of Object.entries(columns)) {
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
  const boxes = values.map(({ value, count: number }) => {
    const box = h("input", { type: "checkbox", onchange: send });
    box.given = value;
    return [box, number];
  });
  const contains =
    kind === "text" && (hasMore || values.length > 8)
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

function ofRange(column, { kind, min, max }, now, change) {
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

  const group = h(
    "fieldset",
    { data: { column } },
    h("legend", {}, titleOf(column)),
    h("div", { class: "range" }, low, h("span", { class: "soft" }, "to"), high),
  );
  group.addEventListener("follow", () => {
    const end = (op) => now().filters.find((one) => one.column === column && one.op === op)?.value;
    low.value = end(">=") === undefined ? "" : form.write(end(">="));
    high.value = end("<=") === undefined ? "" : form.write(end("<="));
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

function showChips({ filters, fold, cluster }, change) {
  const chips = [];
  if (cluster) {
    const text = `cluster ${Number(cluster) + 1}`;
    chips.push(chip(text, () => go({ cluster: "", k: "" })));
  }
  for (const filter of filters) {
    const others = filters.filter((one) => one !== filter);
    chips.push(chip(inWords(filter), () => change(others)));
  }
  if (fold) chips.push(chip("near copies folded", () => change(filters, false)));
  $("#filter-chips").replaceChildren(...chips);
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
  const name = (NAMES[column] ?? column).split(",")[0];
  if (op === "is_null") return `${name}: none`;
  if (op === "starts_with") return `folder: ${value.split("/").filter(Boolean).slice(-2).join("/")}`;
  if (op === "has") return `${name}: any`;
  if (op === "in") return `${name}: ${value.map(shown).join(", ")}`;
  let written = shown(value);
  if (column === "bytes") written = bytes(value);
  else if (column === "mtime") written = nanoseconds.write(value);
  return `${name} ${SIGNS[op] ?? op} ${written}`;
}
