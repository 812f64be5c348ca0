// Moves from state to state: the address bar, the back button, links, and listeners.

import { h } from "./dom.js";
import { EMPTY, hasOwnQuery, parse, tabOf, write } from "./state.js";

let current = parse(location.search);
const SEARCHED = ["query", "not", "like", "image", "mode", "balance", "filters", "fold"];
const FILTERED = new Set(["search", "places", "clusters", "map"]);
const listeners = new Set();
const lastOf = new Map([[tabOf(current), current]]); // each tab's last state

export const state = () => current;

export const onState = (listener) => listeners.add(listener);

/** An address for a state, relative to where the page is. */
export const address = (next) => write(next) || "?";

/** A link to a state; a plain click goes there without loading the page again. */
export function linkTo(target, properties, ...children) {
  const onclick = (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    go(target);
  };
  return h("a", { href: address(target), onclick, ...properties }, ...children);
}

/**
 * Goes to a state.
 * @param {object} changes to the current one.
 * @param {{replace?: boolean}} options replace: the back button does not stop here.
 */
export function go(changes, { replace = false } = {}) {
  const next = { ...current, ...changes };
  // A search that was changed is no longer the saved one.
  const isOther = SEARCHED.some((key) => key in changes) && !("saved" in changes);
  if (isOther && hasOwnQuery(current)) next.saved = "";
  const url = write(next) || location.pathname;
  if (replace) history.replaceState(history.state, "", url);
  else history.pushState({ depth: depth() + 1 }, "", url);
  become(next);
}

/** The number of steps of this visit: whether going back stays on this page. */
export const depth = () => history.state?.depth ?? 0;

/**
 * The state that a tab leads to: that view as it was left, or empty. Filters are taken along to
 * every view that has them.
 */
export function tabState(tab) {
  const known = lastOf.get(tab);
  const { index, like, image, filters } = current;
  const isKnown = known && known.index === index;
  if (tab === "timeline") return { ...EMPTY, sort: "-taken", ...(isKnown && known), filters, index, item: null };
  if (FILTERED.has(tab)) return { ...EMPTY, view: tab, ...(isKnown && known), filters, index, item: null };
  if (isKnown) return { ...known, item: null };
  return { ...EMPTY, view: tab, index, ...(tab === "classify" && { like, image }) };
}

/** Calls every listener with the current state. */
export const start = () => become(current);

function become(next) {
  const before = current;
  current = next;
  lastOf.set(tabOf(next), next);
  for (const listener of listeners) listener(next, before);
}

addEventListener("popstate", () => become(parse(location.search)));
