// The search view: form, filters, results. The address holds the state; form and results follow it.

import { addImages, readMetadata } from "./commands.js";
import { $, h, settled } from "./dom.js";
import { startFilters } from "./filters.js";
import { count, counted, score, time } from "./format.js";
import { Grid } from "./grid.js";
import { indexOf } from "./indexes.js";
import { nameOf } from "./items.js";
import { failureMessage, message, noIndex } from "./messages.js";
import { showChip } from "./image-chip.js";
import { showImagesOnly } from "./images-only.js";
import { keep } from "./images.js";
import { showMarks, startMarkKeys } from "./marks.js";
import { showNotice } from "./nano-notice.js";
import { monthScrubber } from "./month-scrubber.js";
import { Results } from "./results.js";
import { address, go, state } from "./router.js";
import { startSavedSearches } from "./saved-searches.js";
import { scrubber } from "./scrubber.js";
import { Selection } from "./selection.js";
import { selectionBar } from "./selection-bar.js";
import { EMPTY, hasBoth, hasQuery, isTimeline, MODES, resultsKey, SORTS } from "./state.js";
import { Timeline } from "./timeline.js";

const REMEMBERED = 6; // results that the back button finds as they were
const PATIENCE = 500; // milliseconds until the page says that it is busy
const SETTLING = 60; // milliseconds that a part of the timeline is in the window until it is loaded
const NEARLY = 8; // items before the end at which the viewer has more loaded
const LEARNING = [700, 2000, 5000]; // milliseconds until labels are asked for again

/** Starts the view; returns what the rest of the page needs of it. */
export function startSearch(root) {
  const view = new SearchView(root);
  return {
    show: (now) => view.show(now),
    neighbors: {
      at: (item) => view.grid.placeOf(item),
      has: (at) => at >= 0 && at < view.grid.length,
      item: (at) => view.grid.item(at),
      load: (at) => view.load(at),
      focus: (item) => view.grid.focus(view.grid.placeOf(item)),
    },
  };
}

class SearchView {
  #results = null;
  #key = null;
  #kept = new Map(); // key → {results, top}
  #failed = false;
  #written = new Map(); // field → what the state last put there

  constructor(root) {
    this.root = root;
    this.selection = new Selection(() => {
      this.grid.markSelected();
      bar.follow();
    });
    const bar = selectionBar($("#selection-bar"), this.selection, {
      indexName: () => this.#results.index.name,
      cleared: () => this.grid.focusActive(),
    });
    this.grid = new Grid($("#results"), {
      href: (item) => address({ ...state(), item: item.id }),
      open: (at) => go({ item: this.grid.item(at).id }),
      needMore: () => this.more(),
      missing: settled((first, end) => this.#fill(first, end), SETTLING),
      moved: () => {
        this.scrubber.follow();
        this.months.follow();
      },
      selection: this.selection,
    });
    startMarkKeys($("#results"), this.selection, this.grid);
    this.scrubber = scrubber($("#scrubber-row"), {
      total: () => (this.grid.days ? 0 : (this.#results?.total ?? this.grid.length)),
      position: () => this.grid.first,
      describe: (at) => describe(this.grid.item(at), state()),
      go: (at) => this.#goTo(at),
    });
    this.months = monthScrubber($("#months-row"), {
      position: () => this.grid.first,
      go: (at) => this.grid.reveal(at),
    });
    this.filters = startFilters((filters, fold) => go({ filters, fold, saved: "", cluster: "", k: "" }));
    this.saved = startSavedSearches((changes) => go(changes, { replace: true }));
    this.#startForm();
  }

  async show(now) {
    this.#fillForm(now);
    const key = resultsKey(now);
    if (key === this.#key && !this.#failed) {
      this.grid.draw();
      return;
    }
    this.#leave();
    this.#key = key;
    this.#failed = false;
    const busy = setTimeout(() => {
      const text = hasQuery(now) ? "Searching…" : "Loading images…";
      if (key === this.#key) $("#results-status").textContent = text;
    }, PATIENCE);
    try {
      await this.#find(now, key);
    } catch (failure) {
      if (key === this.#key) this.#fail(failure);
    } finally {
      clearTimeout(busy);
    }
  }

  /** Loads what comes next, for the grid and the viewer. */
  async more() {
    const results = this.#results;
    if (!results || results.isDone || this.#failed) return;
    $("#results-more").hidden = false;
    try {
      const found = await results.more();
      if (results === this.#results && found.length) this.grid.grown(results.total);
    } catch (failure) {
      if (results === this.#results && failure.name !== "AbortError") this.#fail(failure);
    }
    if (results === this.#results) {
      $("#results-more").hidden = true;
      this.#count();
    }
  }

  /** Resolves to the item at a position, or undefined; loads what is near it. */
  async load(at) {
    if (this.grid.days) {
      if (!this.grid.item(at)) await this.#fill(Math.max(0, at - NEARLY), at + NEARLY);
    } else if (!this.grid.item(at + NEARLY)) this.more();
    return this.grid.item(at);
  }

  /** Loads images of the timeline, for which the grid has room already. */
  async #fill(first, end) {
    const results = this.#results;
    if (!results?.load) return;
    try {
      const hasChanged = await results.load(first, Math.min(end, results.total));
      if (results !== this.#results) return;
      if (hasChanged) this.#draw();
      else this.grid.arrived(first, end);
    } catch (failure) {
      if (results === this.#results && failure.name !== "AbortError") this.#fail(failure);
    }
  }

  /** Shows a position, and loads what comes before it. */
  async #goTo(at) {
    const results = this.#results;
    while (results === this.#results && at >= this.grid.length && !results.isDone && !this.#failed)
      await this.more();
    if (results === this.#results) this.grid.reveal(at);
  }

  async #find(now, key) {
    const known = this.#kept.get(key);
    const index = await indexOf(now);
    if (key !== this.#key) return;
    if (!index) {
      this.#say(noIndex());
      $("#search-form").hidden = true;
      return;
    }
    showImagesOnly(index);
    this.filters.show(now, index);
    this.saved.show(now, index);
    showMarks($("#marks"), now, index.name);
    showChip($("#search-image"), now, index.name, () => go({ like: null, image: null }));
    const results = known?.results ?? new (isTimeline(now) ? Timeline : Results)(now, index);
    $("#results").classList.add("is-stale");
    results.progress = (text) => {
      if (key === this.#key) $("#results-status").textContent = text;
    };
    if (!known) await results.more();
    if (key !== this.#key) return results.cancel();
    this.#results = results;
    this.selection.moveTo(index.name);
    $("#results").classList.remove("is-stale");
    $("#results-message").replaceChildren();
    this.#draw();
    scrollTo({ top: known?.top ?? 0 });
    showNotice($("#notice"), index, results.items);
    if (results.hasDates === false && !now.filters.length) this.#say(this.#noDates(index));
    else if (!results.items.length) this.#say(this.#nothing(now, index));
    else if (results.isSearch && results.scoring !== "bm25" && !results.cutoffs) this.#learn(results);
  }

  #draw() {
    const { items, total, days, index } = this.#results;
    this.root.classList.toggle("is-timeline", Boolean(days));
    this.grid.show(items, { index: index.name, total, days });
    this.months.show(days ?? null);
    this.#count();
  }

  /** Keeps what was shown, for the way back. */
  #leave() {
    if (!this.#results) return;
    this.#kept.delete(this.#key);
    this.#kept.set(this.#key, { results: this.#results, top: scrollY });
    for (const old of [...this.#kept.keys()].slice(0, -REMEMBERED)) this.#kept.delete(old);
    this.#results = null;
  }

  async #learn(results, tries = 0) {
    await new Promise((resolve) => setTimeout(resolve, LEARNING[tries]));
    if (results !== this.#results) return;
    const isKnown = await results.learnCutoffs().catch(() => false);
    if (results !== this.#results) return;
    if (isKnown) {
      this.grid.relayout();
      this.#count();
    } else if (tries + 1 < LEARNING.length) this.#learn(results, tries + 1);
  }

  #count() {
    const { items, isSearch, total, isDone, cutoffs, scoring } = this.#results;
    const status = $("#results-status");
    $("#sort-row").hidden = isSearch || !items.length || Boolean(state().cluster);
    if (!items.length) status.textContent = "";
    else if (!isSearch) status.textContent = counted(total, "image");
    else if (!cutoffs || scoring !== "cosine") {
      status.textContent = isDone ? counted(items.length, "image") : "The best first";
    } else {
      status.textContent = summary(items, isDone);
    }
  }

  #nothing(now, index) {
    if (now.filters.length) {
      return message({
        title: "No image meets these filters",
        text: "Take one of them away, or all.",
        actions: [["Clear the filters", () => go({ filters: [] }), true]],
      });
    }
    if (!index.rows) {
      return message({
        title: "This index is empty",
        text: "Images appear here while they are being indexed.",
        command: addImages(index.path),
      });
    }
    return message({ title: "Nothing found", text: "Try another query." });
  }

  #noDates(index) {
    return message({
      title: "No image has a date",
      text: "Dates come from what cameras write into files. An older index reads it with this command:",
      command: readMetadata(index.path),
      actions: [["Show all images", () => go({ sort: "" }), true]],
    });
  }

  #fail(failure) {
    if (failure.name === "AbortError") return;
    this.#failed = true;
    $("#results").classList.remove("is-stale");
    $("#results-more").hidden = true;
    $("#results-status").textContent = "";
    if (failure.code === "image_elsewhere") {
      this.#say(
        message({
          title: "The image of this link is not here",
          text: "Only the browser that it was dropped into has it. Drop it here to search with it.",
          actions: [["Search without it", () => go({ image: null }), true]],
        }),
      );
    } else if (failure.code?.includes("image") && state().image) {
      this.#say(
        message({
          title: "That image cannot be used",
          text: failure.message,
          actions: [["Search without it", () => go({ image: null }), true]],
        }),
      );
    } else this.#say(failureMessage(failure, () => this.show(state())));
  }

  #say(element) {
    this.grid.show([], { index: "", total: 0 });
    this.months.show(null);
    $("#results-message").replaceChildren(element);
  }

  #fillForm(now) {
    $("#search-form").hidden = false;
    this.#write("#query", now.query);
    this.#write("#not", now.not);
    for (const choice of document.getElementsByName("mode")) choice.checked = choice.value === now.mode;
    $("#balance-row").hidden = !hasBoth(now);
    $("#balance").value = now.balance;
    $("#sort").value = now.sort;
    $("#balance").setAttribute("aria-valuetext", `image ${Math.round(100 * now.balance)} %`);
  }

  /** Fills a field in, but leaves what is being typed while other things change. */
  #write(field, value) {
    if (this.#written.get(field) === value) return;
    this.#written.set(field, value);
    $(field).value = value;
  }

  #startForm() {
    const submit = (options) => {
      const query = $("#query").value;
      const not = $("#not").value;
      if (query !== state().query || not !== state().not) go({ query, not, item: null, saved: "", cluster: "", k: "" }, options);
      else if (this.#failed) this.show(state());
    };
    $("#search-form").addEventListener("submit", (event) => {
      event.preventDefault();
      submit();
    });
    $("#query").addEventListener("input", () => {
      if (!$("#query").value && state().query) submit(); // emptied: the whole index again
    });
    $("#not").addEventListener("change", () => submit());
    const chosen = (event) => go({ mode: event.target.value }, { replace: !state().query.trim() });
    $("#mode").append(
      ...Object.entries(MODES).map(([value, label]) =>
        h("label", {}, h("input", { type: "radio", name: "mode", value, onchange: chosen }), h("span", {}, label)),
      ),
    );
    const balanced = settled((balance) => go({ balance }, { replace: true }), 120);
    $("#balance").addEventListener("input", (event) => balanced(Number(event.target.value)));
    $("#query").addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" && this.grid.length) {
        event.preventDefault();
        this.grid.focus(0);
      } else if (event.key === "Escape" && (event.target.value || hasQuery(state()))) {
        event.preventDefault();
        event.target.value = "";
        const { index, filters, fold, mode } = state();
        go({ ...EMPTY, index, filters, fold, mode });
      }
    });
    const orders = Object.entries(SORTS);
    $("#sort").append(...orders.map(([value, [label]]) => h("option", { value }, label)));
    $("#sort").addEventListener("change", (event) => go({ sort: event.target.value }));
    $("#choose-image").addEventListener("click", () => $("#image-file").click());
    $("#image-file").addEventListener("change", async (event) => {
      const [file] = event.target.files;
      event.target.value = "";
      if (file) go({ image: await keep(file), like: null, item: null, saved: "", cluster: "", k: "" });
    });
  }
}

/** What the slider says of a position. */
function describe(item, { sort }) {
  if (!item) return "";
  if (Number.isFinite(item.shownScore)) return `score ${score(item.shownScore)}`;
  return sort.endsWith("date") && item.modified
    ? time(item.modified)
    : nameOf(item);
}

function summary(items, isDone) {
  const number = { strong: 0, weak: 0, none: 0 };
  for (const { label } of items) number[label] += 1;
  const isWhole = (label) => isDone || items.at(-1).label !== label;
  const said = (label, what) => `${count(number[label])}${isWhole(label) ? "" : "+"} ${what}`;
  const parts = [];
  if (number.strong) parts.push(said("strong", "strong"));
  if (number.weak) parts.push(said("weak", "weak"));
  const matches = parts.length
    ? `${parts.join(", ")} ${number.strong + number.weak === 1 ? "match" : "matches"}`
    : "No strong or weak match";
  return number.none ? `${matches}, ${said("none", "less likely")}` : matches;
}
