// The images of an index by when they were taken. How many each day has is known at once, and the
// images of a day are loaded when it is looked at.

import { get } from "./api.js";
import { areAboutMoments } from "./items.js";
import { SORTS, writtenFilters } from "./state.js";

const PAGE = 200; // images of one request

/** Has the properties of `Results` that a listing needs; `items` has gaps until they are loaded. */
export class Timeline {
  items = [];
  days = []; // {day: "2023-05-04" or null, count, at: the first position}, in order
  total = null;
  isSearch = false;
  isDone = false; // whether the days are known
  cutoffs = null;
  #pages = new Map(); // number → request
  #controller = new AbortController();

  constructor(state, index) {
    this.index = index;
    this.order = SORTS[state.sort][1];
    this.filters = writtenFilters(state.filters);
    // A long video has hundreds of moments, which the viewer shows.
    this.videos = areAboutMoments(state.filters) ? "moments" : "whole";
  }

  /** Whether any image has a date. */
  get hasDates() {
    return this.days.some(({ day }) => day !== null);
  }

  /** Loads the days and the first images. */
  async more() {
    if (this.isDone) return [];
    await this.#loadDays();
    await this.load(0, Math.min(this.total, PAGE));
    return this.items;
  }

  /**
   * Loads what is missing from `first` to `end`.
   * @returns {Promise<boolean>} whether the index has changed, and all begins anew.
   */
  async load(first, end) {
    const pages = [];
    for (let page = Math.floor(first / PAGE); page * PAGE < end; page += 1) pages.push(page);
    const changed = await Promise.all(pages.map((page) => this.#load(page)));
    if (!changed.includes(true)) return false;
    await this.#loadDays();
    return true;
  }

  cancel() {
    this.#controller.abort();
  }

  async #loadDays() {
    const { periods, undated } = await this.#askForDays();
    if (this.order.descending) periods.reverse();
    if (undated) periods.push({ period: null, count: undated });
    let at = 0;
    this.days = periods.map(({ period, count }) => {
      at += count;
      return { day: period, count, at: at - count };
    });
    this.total = at;
    this.items.length = 0;
    this.items.length = at;
    this.#pages.clear();
    this.isDone = true;
  }

  async #askForDays() {
    const path = `v1/indexes/${encodeURIComponent(this.index.name)}`;
    const asked = { unit: "day", filters: this.filters, videos: this.videos };
    try {
      return await get(`${path}/timeline`, asked, this.#controller);
    } catch (failure) {
      if (failure.code !== "invalid_query") throw failure;
      const { columns } = await get(path, {}, this.#controller);
      if (columns.some(({ name }) => name === "taken_at")) throw failure;
      return { periods: [], undated: 0 };
    }
  }

  /** Loads a page once; resolves to whether there are now more or fewer images than there were. */
  #load(page) {
    if (!this.#pages.has(page)) {
      const request = this.#ask(page).catch((failure) => {
        this.#pages.delete(page);
        throw failure;
      });
      this.#pages.set(page, request);
    }
    return this.#pages.get(page);
  }

  async #ask(page) {
    const { index, filters, videos, total } = this;
    const part = { offset: page * PAGE, limit: PAGE };
    const asked = { index: index.name, filters, videos, ...part, ...this.order };
    const reply = await get("v1/items", asked, this.#controller);
    if (reply.total !== total) return true;
    reply.items.forEach((item, n) => {
      this.items[page * PAGE + n] = item;
    });
    return false;
  }
}
