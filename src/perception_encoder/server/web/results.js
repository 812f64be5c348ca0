// Pages of images, one after the other: hits of a query, or the whole index when there is none.

import { get, post } from "./api.js";
import { finished } from "./jobs.js";
import { markFields } from "./marks.js";
import { resultsBody } from "./query.js";
import { hasMarks, hasOwnQuery, isListing, SORTS, writtenFilters } from "./state.js";

const FIRST = 60; // a screen or two
const FURTHER = 300;
const MOST = 1000; // items of the largest page

/** The images found so far; `more` loads the next page. */
export class Results {
  items = [];
  total = null; // how many there will be, where that is known
  progress = () => {}; // is called with the progress of long work
  scoring = "cosine"; // or "bm25" of texts, or "fusion" of both
  cutoffs = null; // {strong, weak}: cosines from which on hits have those labels
  #offset = 0;
  #embedded = null; // the query's terms, of which the server has told the vector
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
    this.isByName = state.saved !== "" && !hasOwnQuery(state); // one that another program saved
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
    const body = await this.#body();
    this.cutoffs = (await this.#ask(body, { k: 1 })).query.cutoffs;
    for (const item of this.items) this.#describe(item);
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
    const isFirst = this.#embedded === null;
    const body = { ...(await this.#body()), ...(this.#embedded && { terms: this.#embedded }) };
    const reply = await this.#ask(body, { k: this.#pageSize(), offset: this.#offset });
    if (isFirst) {
      const { vector, cutoffs, score } = reply.query;
      // With marks every page is asked for in full, so that marked images are no later hits.
      if (!hasMarks(this.state)) this.#embedded = vector === null ? [] : [{ vector }];
      this.cutoffs = cutoffs;
      this.scoring = score;
    }
    for (const hit of reply.hits) this.#describe(hit);
    return reply;
  }

  #body() {
    const { state, index } = this;
    return this.isByName ? {} : resultsBody(state, index.model, this.#controller.signal);
  }

  #ask(body, page) {
    const { state, index } = this;
    const { signal } = this.#controller;
    if (this.isByName) {
      const path = `v1/indexes/${encodeURIComponent(index.name)}/searches`;
      return post(path, { name: state.saved, ...page }, { signal });
    }
    return post("v1/search", { index: index.name, ...body, ...markFields(state), ...page }, { signal });
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

  /** Adds what the grid shows of a hit; later pages are requested by vector, without cutoffs. */
  #describe(hit) {
    const { cutoffs, scoring } = this;
    const { cosine } = hit;
    hit.label = null;
    if (cutoffs && cosine !== null) {
      hit.label = cosine >= cutoffs.strong ? "strong" : cosine >= cutoffs.weak ? "weak" : "none";
    }
    hit.heading = scoring === "cosine" ? hit.label : null; // elsewhere labels are not in order
    hit.shownScore = cosine ?? hit.text_score;
  }
}
