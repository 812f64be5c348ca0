// From the page's state to what is searched for. An image is sent once; its embedding is kept here.

import { ApiFailure, post } from "./api.js";
import { find } from "./images.js";
import { splitPart } from "./parts.js";
import { hasBoth } from "./state.js";

const ALIKE = 0.95; // cosine of near copies that are folded
const NOT_WEIGHT = -0.5; // half of what is wanted: a text pulls harder than it seems to

const vectors = new Map(); // "model image" → base64

/** The text of POST /v1/search for a state: what is searched in stored texts. */
export const textOf = ({ query, mode }) => (mode && query.trim() ? query.trim() : null);

/** The body of POST /v1/search for a state, without index and page. */
export async function resultsBody(state, model, signal) {
  return {
    terms: await terms(state, model, signal),
    text: textOf(state),
    filters: state.filters,
    unique: state.fold ? ALIKE : null,
  };
}

/** The terms of POST /v1/search for a state: what is searched in images. */
export async function terms(state, model, signal) {
  const found = [];
  const query = state.mode === "text" ? "" : state.query.trim();
  const share = hasBoth(state) ? 2 * state.balance : 1;
  if (query && !(hasBoth(state) && state.balance === 1)) {
    found.push({ query, weight: hasBoth(state) ? 2 - share : 1 });
  }
  if ((state.like || state.image) && share > 0) {
    found.push(
      state.like
        ? { ...splitPart(state.like), weight: share }
        : { vector: await vectorOf(state.image, model, signal), weight: share },
    );
  }
  for (const text of state.not.split(",")) {
    if (text.trim()) found.push({ text: text.trim(), weight: NOT_WEIGHT });
  }
  return found;
}

async function vectorOf(image, model, signal) {
  const key = `${model} ${image}`;
  if (!vectors.has(key)) {
    const file = await find(image);
    if (!file) throw new ApiFailure(0, "image_elsewhere", "");
    const form = new FormData();
    form.set("images", file);
    form.set("model", model);
    form.set("encoding", "base64");
    const reply = await post("v1/embed", form, { signal });
    vectors.set(key, reply.data[0].embedding);
  }
  return vectors.get(key);
}
