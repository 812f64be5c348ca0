// The saved searches of an index: a button that lists them, and a link that runs each.

import { get } from "./api.js";
import { $, h } from "./dom.js";
import { time } from "./format.js";
import { linkTo } from "./router.js";
import { EMPTY } from "./state.js";

const OPTIONS = { since: "since", until: "until", near: "near", camera: "with", where: "where" };

/** Starts the button and its panel; they are hidden where an index has no saved search. */
export function startSavedSearches() {
  const panel = $("#saved");
  const toggle = $("#saved-toggle");
  let shownFor = null;
  let current = "";
  const setOpen = (isOpen) => {
    panel.hidden = !isOpen;
    toggle.setAttribute("aria-expanded", String(isOpen));
  };
  toggle.addEventListener("click", () => setOpen(panel.hidden));

  async function load(index, named) {
    shownFor = index.name;
    const path = `v1/indexes/${encodeURIComponent(index.name)}/searches`;
    const { data } = await get(path).catch(() => ({ data: [] }));
    if (shownFor !== index.name) return;
    toggle.hidden = !data.length;
    if (!data.length) setOpen(false);
    panel.replaceChildren(h("ul", {}, data.map((one) => row(one, named))));
    mark();
  }

  function mark() {
    for (const link of panel.querySelectorAll("a")) {
      if (link.dataset.name === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  return {
    show({ saved, index: named }, index) {
      current = saved;
      if (shownFor !== index.name) load(index, named);
      else mark();
    },
  };
}

function row({ name, query, options, last_run_at: ran }, index) {
  const limits = Object.entries(OPTIONS)
    .filter(([key]) => options[key])
    .map(([key, word]) => `${word} ${options[key]}`);
  return h(
    "li",
    {},
    linkTo({ ...EMPTY, index, saved: name }, { data: { name } }, name),
    h("span", { class: "soft" }, [query, ...limits].join(", ")),
    h("span", { class: "soft when" }, ran ? `last run ${time(ran)}` : "never run"),
  );
}
