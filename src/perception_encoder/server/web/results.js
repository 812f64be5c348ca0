// Pages of images, one after the other: hits of a query, or the whole index when there is none.

import { get, post } from "./api.js";
import { finished } from "./jobs.js";
import { terms } from "./query.js";
import { isListing, SORTS, writtenFilters } from "./state.js";

const FIRST = 60; // a screen or two
const FURTHER = 300;
const MOST = 1000; // items of the largest page
const ALIKE = 0.95; // cosine of near copies that are folded

/** The images found so far; `more` loads the next page. */
export class Results {
  items = [];
  total = null; // how many there will be, where that is known
  progress = () => {}; // is called with the progress of long work
  cutoffs = null; // {strong, weak}: cosines from which on hits have those labels
  #offset = 0;
  #vector = null;
  #controller = new AbortController();
  #loading = null;

  /**
   * @param {object} state see state.js.
   * @param {{name: string, model: string, rows: number}} index
   */
  constructor(state, index) {
    this.state = state;
    this.index = index;
    this.isSearch = !isListing(state);
  }

  get isDone() {
    return this.#offset === null;
  }

  /** Loads the next page; resolves to its items. Calls while one is under way share it. */
  more() {
    if (this.isDone) return Promise.resolve([]);
    this.#loading ??= this.#load().finally(() => {
      this.#loading = null;
    });
    return this.#loading;
  }

  /** Aborts the request under way. */
  cancel() {
    this.#controller.abort();
  }

  /** Asks for the cutoffs again: a new index is calibrated after its first search. */
  async learnCutoffs() {
    const { signal } = this.#controller;
    const body = {
      index: this.index.name,
      k: 1,
      terms: await terms(this.state, this.index.model, signal),
    };
    this.cutoffs = (await post("v1/search", body, { signal })).query.cutoffs;
    for (const item of this.items) item.label = this.#label(item.score);
    return this.cutoffs !== null;
  }

  async #load() {
    const reply = this.isSearch ? await this.#search() : await this.#browse();
    if (!reply) throw new DOMException("aborted", "AbortError");
    const found = reply.hits ?? reply.items;
    this.items.push(...found);
    this.#offset = reply.next_offset;
    if (this.isDone) this.total = this.items.length;
    else if (reply.total !== undefined) this.total = reply.total;
    return found;
  }

  async #search() {
    const { state, index } = this;
    const { signal } = this.#controller;
    const isFirst = this.#vector === null;
    const body = {
      index: index.name,
      terms: isFirst ? await terms(state, index.model, signal) : [{ vector: this.#vector }],
      k: this.#pageSize(),
      offset: this.#offset,
      filters: state.filters,
      unique: state.fold ? ALIKE : null,
    };
    const reply = await post("v1/search", body, { signal });
    if (isFirst) {
      this.#vector = reply.query.vector;
      this.cutoffs = reply.query.cutoffs;
    }
    for (const hit of reply.hits) hit.label = this.#label(hit.score);
    return reply;
  }

  /** Pages grow, so that a far jump takes few requests. */
  #pageSize() {
    return this.#offset === 0 ? FIRST : Math.min(MOST, Math.max(FURTHER, this.#offset));
  }

  async #browse() {
    const { state, index } = this;
    const limit = this.#pageSize();
    const filters = writtenFilters(state.filters);
    if (state.cluster) {
      const path = `v1/clusters/${state.cluster}`;
      const asked = { index: index.name, k: state.k, offset: this.#offset, limit, filters };
      const { signal } = this.#controller;
      return finished(path, asked, this.progress, () => !signal.aborted);
    }
    const asked = { index: index.name, offset: this.#offset, limit, filters };
    return get("v1/items", { ...asked, ...SORTS[state.sort][1] }, this.#controller);
  }

  /** The label of a cosine. Later pages are requested by vector, so only the first has cutoffs. */
  #label(score) {
    if (!this.cutoffs) return null;
    if (score >= this.cutoffs.strong) return "strong";
    return score >= this.cutoffs.weak ? "weak" : "none";
  }
}
