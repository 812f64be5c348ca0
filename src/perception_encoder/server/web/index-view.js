// Counts, outcomes and properties of an index, live while `pe index` writes.

import { get } from "./api.js";
import { addImages, listErrors, optimize, retryFailed } from "./commands.js";
import { $, announce, copyButton, h } from "./dom.js";
import { bytes, count, counted } from "./format.js";
import { indexOf } from "./indexes.js";
import { failureMessage, noIndex } from "./messages.js";
import { onState, state } from "./router.js";

const OFTEN = 1000; // milliseconds between requests while a run writes and the view is shown
const SELDOM = 6000;
const SPAN = 10; // seconds that the rate is taken over
const SPOKEN = 15_000; // milliseconds between announcements
const OUTCOMES = {
  embedded: "embedded",
  reused: "reused: the same content was known",
  skipped: "skipped: unchanged",
  failed: "failed",
  vanished: "vanished",
  pruned: "removed",
};

export function startIndexView(root) {
  const view = new IndexView(root);
  view.watch();
  return { show: (now) => view.show(now) };
}

class IndexView {
  #timer = 0;
  #facts = null;
  #seen = []; // [seconds, rows], the last few looks
  #spoken = 0;
  #of = null;

  constructor(root) {
    this.body = h("div");
    root.append(
      h(
        "div",
        { class: "column" },
        h("header", {}, h("h1", { id: "index-title" }, "Index")),
        this.body,
      ),
    );
  }

  /** Asks for the status, whatever is shown: the tab has a dot while a run writes. */
  watch() {
    document.addEventListener("visibilitychange", () => !document.hidden && this.#look());
    onState((now, before) => {
      if (now.index !== before.index) this.#look();
    });
    this.#look();
  }

  async show() {
    await this.#look();
  }

  async #look() {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    let pause = SELDOM;
    try {
      const index = await indexOf(state());
      if (!index) this.body.replaceChildren(noIndex());
      else pause = await this.#update(index.name);
    } catch (failure) {
      if (state().view === "index")
        this.body.replaceChildren(failureMessage(failure, () => this.#look()));
      this.#facts = null;
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), pause);
  }

  async #update(name) {
    const path = `v1/indexes/${encodeURIComponent(name)}`;
    const status = await get(`${path}/status`);
    $("#writing-dot").hidden = !status.is_being_written;
    if (this.#of !== name) {
      this.#of = name;
      this.#seen = [];
      this.#facts = null;
    }
    const now = performance.now() / 1000;
    this.#seen = [...this.#seen.filter(([at]) => now - at < SPAN), [now, status.rows]];
    if (state().view !== "index") return SELDOM;
    if (!this.#facts || !status.is_being_written) this.#facts = await get(path);
    this.#draw(status);
    return status.is_being_written ? OFTEN : SELDOM;
  }

  #rate() {
    const [[first, rows], [last, more]] = [this.#seen[0], this.#seen.at(-1)];
    return last > first ? (more - rows) / (last - first) : 0;
  }

  #draw(status) {
    const isWriting = status.is_being_written;
    const rate = this.#rate();
    const saying = isWriting
      ? `Being written: ${counted(status.rows, "image")}${rate > 0 ? `, ${count(Math.round(rate))} a second` : ""}`
      : `${counted(status.rows, "image")}. Up to date.`;
    if (isWriting && Date.now() - this.#spoken > SPOKEN) {
      this.#spoken = Date.now();
      announce(saying);
    }
    this.body.replaceChildren(
      h(
        "div",
        { class: "numbers" },
        number(count(status.rows), status.rows === 1 ? "image" : "images"),
        isWriting
          ? number(rate > 0 ? `+${count(Math.round(rate))}` : "…", "a second", true)
          : number(bytes(this.#facts.bytes + this.#facts.searcher_bytes), "on disk"),
        number(String(this.#facts.dimensions), "dimensions"),
      ),
      h(
        "p",
        { class: "writing", data: { writing: isWriting } },
        isWriting && h("span", { class: "writing-dot" }),
        isWriting
          ? "pe index is writing this index now."
          : "Up to date. Run pe index again to add new images; it skips what it has.",
      ),
      outcomes(status.outcomes),
      failures(status, this.#facts.path),
      this.#about(),
    );
  }

  #about() {
    const facts = this.#facts;
    const rows = [
      ["Path", facts.path],
      ["Model", facts.model],
      ["Preprocessing", facts.preprocess],
      ["Embeddings", `${facts.dimensions} × ${facts.vector_dtype}`],
      ["Dataset", bytes(facts.bytes)],
      ["Searcher", facts.searcher_bytes ? bytes(facts.searcher_bytes) : "not built yet"],
      ["Version", `${facts.version}, ${counted(facts.versions_kept, "version")} kept`],
      ["Made by", facts.made_by && `perception-encoder ${facts.made_by}`],
      ["Columns", facts.columns.map(({ name }) => name).join(", ")],
    ];
    return h(
      "section",
      { class: "card" },
      h("h2", {}, facts.name),
      h(
        "dl",
        { class: "facts" },
        rows
          .filter(([, value]) => value)
          .map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]),
      ),
      h(
        "dl",
        { class: "commands" },
        [
          ["Add images", addImages(facts.path)],
          ["Compact it and build its searcher", optimize(facts.path)],
        ].map(([name, command]) => [
          h("dt", {}, name),
          h("dd", {}, h("code", {}, command), copyButton("Copy", command)),
        ]),
      ),
    );
  }
}

function number(value, what, isLive = false) {
  return h(
    "p",
    { class: isLive ? "number is-live" : "number" },
    h("strong", {}, value),
    h("span", {}, what),
  );
}

function outcomes(counts) {
  const found = Object.keys(OUTCOMES).filter((status) => counts[status]);
  if (!found.length) return "";
  const total = found.reduce((sum, status) => sum + counts[status], 0);
  const strip = h(
    "div",
    { class: "strip", "aria-hidden": "true" },
    found.map((status) => part(status, counts[status] / total)),
  );
  return h(
    "section",
    { class: "card" },
    h("h2", {}, "Outcomes"),
    strip,
    h(
      "ul",
      { class: "legend" },
      found.map((status) =>
        h(
          "li",
          {},
          h("span", { class: `swatch ${status}` }),
          h("strong", {}, count(counts[status])),
          OUTCOMES[status],
        ),
      ),
    ),
  );
}

function part(status, share) {
  const element = h("span", { class: status });
  element.style.flexGrow = share;
  return element;
}

function failures({ failures: shown, outcomes: counts }, path) {
  if (!shown.length) return "";
  const more = counts.failed > shown.length ? `, ${count(shown.length)} of them here` : "";
  return h(
    "section",
    { class: "card" },
    h("h2", {}, `${counted(counts.failed, "item")} could not be read${more}`),
    h(
      "p",
      { class: "soft" },
      h("code", {}, listErrors(path)),
      " lists them all; ",
      h("code", {}, retryFailed(path)),
      " tries again.",
    ),
    h(
      "ul",
      { class: "failures", tabindex: 0 },
      shown.map(({ uri, member, message }) => {
        const name = member ? `${uri}/${member}` : uri;
        return h("li", {}, h("code", {}, name), h("span", {}, withoutName(message, name)));
      }),
    ),
  );
}

/** A message without the name of its item, which is shown above it. */
function withoutName(message, name) {
  return message.startsWith(`${name}: `) ? message.slice(name.length + 2) : message;
}
