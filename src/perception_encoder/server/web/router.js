// Moves from state to state: the address bar, the back button, links, and listeners.

import { h } from "./dom.js";
import { EMPTY, parse, write } from "./state.js";

let current = parse(location.search);
const listeners = new Set();
const lastOf = new Map([[current.view, current]]); // each view's last state, for the tabs

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
  const url = write(next) || location.pathname;
  if (replace) history.replaceState(history.state, "", url);
  else history.pushState({ depth: depth() + 1 }, "", url);
  become(next);
}

/** The number of steps of this visit: whether going back stays on this page. */
export const depth = () => history.state?.depth ?? 0;

/** The state that a tab leads to: that view as it was left, or empty. */
export function tabState(view) {
  const known = lastOf.get(view);
  if (known && known.index === current.index) return { ...known, item: null };
  const { index, like, image } = current;
  return view === "classify" ? { ...EMPTY, view, index, like, image } : { ...EMPTY, view, index };
}

/** Calls every listener with the current state. */
export const start = () => become(current);

function become(next) {
  const before = current;
  current = next;
  lastOf.set(next.view, next);
  for (const listener of listeners) listener(next, before);
}

addEventListener("popstate", () => become(parse(location.search)));
