// The server's indexes, and the one that is shown.

import { ApiFailure, get } from "./api.js";
import { $, h } from "./dom.js";
import { go, state } from "./router.js";

let known = null;

/** The indexes, the default first; asked for once, and again after `forget`. */
export function indexes() {
  known ??= get("v1/indexes")
    .then(({ data }) => {
      paths = data.map(({ path }) => path);
      return data;
    })
    .catch((failure) => {
      known = null;
      throw failure;
    });
  return known;
}

let paths = ["images.lance"];

/** Where the server's indexes were when they were last asked for. */
export const knownPaths = () => paths;

export const forget = () => {
  known = null;
};

/** The index that a state names, else the first; null where the server has none at all. */
export async function indexOf({ index }) {
  const all = await indexes();
  const named = all.find((one) => one.name === index);
  if (index && !named && all.length) {
    throw new ApiFailure(404, "unknown_index", `This server has no index "${index}".`);
  }
  const chosen = named ?? all[0] ?? null;
  if (chosen?.error) {
    forget(); // it may be back the next time
    throw new ApiFailure(503, "index_unavailable", chosen.error);
  }
  return chosen;
}

/** Offers the indexes where there are several. */
export async function startChoice() {
  const all = await indexes();
  const select = $("#index-select");
  $("#index-choice").hidden = all.length < 2;
  select.replaceChildren(...all.map((one) => h("option", { value: one.name }, one.name)));
  select.addEventListener("change", () => {
    const isFirst = select.value === all[0].name;
    const { view, query, not } = state();
    const fresh = { like: null, image: null, filters: [], item: null };
    go({ ...fresh, view, query, not, index: isFirst ? null : select.value });
  });
}

export const showChoice = ({ index }) => {
  const select = $("#index-select");
  if (select.options.length) select.value = index ?? select.options[0].value;
};
