// The saved searches of an index: a button that opens a panel to run, save and remove them.

import { get, post } from "./api.js";
import { $, announce, h, icon } from "./dom.js";
import { describeFilters } from "./filters.js";
import { time } from "./format.js";
import { resultsBody } from "./query.js";
import { linkTo } from "./router.js";
import { EMPTY, hasMarks, hasOwnQuery, parse, write } from "./state.js";

const OPTIONS = { since: "since", until: "until", near: "near", camera: "with", where: "where" };
const MOST_NAME = 64;

/**
 * Starts the button and its panel. They are hidden where there is nothing to list and to save.
 * @param {(changes: object) => void} go
 */
export function startSavedSearches(go) {
  const panel = $("#saved");
  const toggle = $("#saved-toggle");
  let shown = EMPTY;
  let index = null;
  let searches = [];
  const setOpen = (isOpen) => {
    panel.hidden = !isOpen;
    toggle.setAttribute("aria-expanded", String(isOpen));
  };
  toggle.addEventListener("click", () => setOpen(panel.hidden));

  const name = h("input", {
    type: "text",
    maxlength: MOST_NAME,
    placeholder: "Name of this search",
    "aria-label": "Name of this search",
    oninput: () => said.replaceChildren(),
  });
  const said = h("p", { class: "said", role: "status" });
  const form = h(
    "form",
    { onsubmit: save, autocomplete: "off" },
    name,
    h("button", { type: "submit", class: "quiet" }, icon("saved"), "Save this search"),
  );
  const list = h("ul", {});
  panel.replaceChildren(form, said, list);

  async function load(of) {
    index = of;
    searches = [];
    said.replaceChildren();
    const { data } = await get(pathOf(of)).catch(() => ({ data: [] }));
    if (index === of) show(data);
  }

  async function save(event) {
    event.preventDefault();
    const of = index;
    try {
      const body = await resultsBody(shown, of.model);
      const page = write({ ...shown, index: null, item: null, saved: "" });
      const kept = await post(`${pathOf(of)}/save`, { ...body, name: name.value.trim(), page });
      if (index !== of) return;
      show([...searches.filter((one) => one.name !== kept.name), kept]);
      announce(`Saved as ${kept.name}`);
      go({ saved: kept.name });
    } catch (failure) {
      said.textContent = failure.message;
    }
  }

  async function remove(removed) {
    const of = index;
    try {
      const { data } = await post(`${pathOf(of)}/remove`, { name: removed });
      if (index !== of) return;
      show(data);
      announce(`Removed ${removed}`);
      if (shown.saved === removed) go({ saved: "" });
      (list.querySelector("a") ?? name).focus();
    } catch (failure) {
      said.textContent = failure.message;
    }
  }

  function show(found) {
    searches = found.toSorted((one, other) => one.name.localeCompare(other.name));
    list.replaceChildren(...searches.map((one) => row(one, index.name, remove)));
    follow();
  }

  /** Shows what can be saved now, and which search is shown. */
  function follow() {
    const canSave = hasOwnQuery(shown) && !shown.image && !hasMarks(shown);
    form.hidden = !canSave || Boolean(shown.saved);
    list.hidden = !searches.length;
    toggle.hidden = !searches.length && !canSave;
    if (toggle.hidden) setOpen(false);
    for (const link of list.querySelectorAll("a")) {
      if (link.dataset.name === shown.saved) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  return {
    show(state, of) {
      const isOther = write({ ...shown, item: null }) !== write({ ...state, item: null });
      shown = state;
      if (isOther) name.value = suggestion(state);
      if (index?.name !== of.name) load(of);
      else index = of;
      follow();
    },
  };
}

const pathOf = ({ name }) => `v1/indexes/${encodeURIComponent(name)}/searches`;

/** A name for a search, of the characters that names may have. */
const suggestion = ({ query, not }) =>
  (query || not)
    .replace(/[^\p{L}\p{N}_ .-]+/gu, " ")
    .replace(/\s+/g, " ")
    .trim()
    .replace(/^[^\p{L}\p{N}_]+/u, "")
    .slice(0, MOST_NAME);

function row({ name, query, options, page, last_run_at: ran }, index, remove) {
  const own = page ? parse(page) : EMPTY;
  const target = { ...(hasOwnQuery(own) ? own : EMPTY), view: "search", index, item: null, saved: name };
  const limits = hasOwnQuery(own)
    ? describeFilters(own)
    : Object.entries(OPTIONS)
        .filter(([key]) => options[key])
        .map(([key, word]) => `${word} ${options[key]}`);
  return h(
    "li",
    {},
    h(
      "div",
      { class: "what" },
      linkTo(target, { data: { name } }, name),
      h("span", { class: "soft" }, [query, ...limits].join(", ")),
    ),
    h("span", { class: "soft when" }, ran ? `last run ${time(ran)}` : "never run"),
    h(
      "button",
      {
        type: "button",
        class: "quiet round",
        "aria-label": `Remove the saved search ${name}`,
        title: "Remove",
        onclick: () => remove(name),
      },
      icon("close"),
    ),
  );
}
