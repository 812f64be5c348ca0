// The review of duplicates: groups side by side, what to keep of each, and a script to take away.

import { thumbnail } from "./api.js";
import { removeDuplicates } from "./commands.js";
import { startCompare } from "./compare.js";
import { $, announce, copyButton, h, icon, save } from "./dom.js";
import { bytes, counted, pixels } from "./format.js";
import { indexOf } from "./indexes.js";
import { nameOf, spokenName } from "./items.js";
import { finished } from "./jobs.js";
import { failureMessage, message, noIndex } from "./messages.js";
import { keepList, removalScript } from "./removal-script.js";
import { Review } from "./review.js";
import { go, state } from "./router.js";

const TIERS = {
  bytes: ["Same file", "The same bytes under two names."],
  pixels: ["Same pixels", "Also other files of exactly the same image."],
  near: ["Nearly the same", "Also images that were saved anew, resized or cut a little."],
  similar: ["Similar", "Also images that only look alike: look closely."],
};
const KINDS = {
  "identical bytes": "same file",
  "identical pixels": "same pixels",
  "near duplicate": "nearly the same",
  similar: "similar",
};
const PAGE = 50;
const MOST = 500; // groups of one request

export function startDuplicates(root) {
  const view = new DuplicatesView(root);
  return { show: (now) => view.show(now), hide: () => view.hide() };
}

class DuplicatesView {
  #key = null;
  #groups = [];
  #review = new Review();
  #loading = null; // a promise
  #next = null;

  constructor(root) {
    this.compare = startCompare($("#compare"));
    const tiers = Object.entries(TIERS).map(([tier, [label, hint]]) =>
      h(
        "label",
        { title: hint },
        h("input", { type: "radio", name: "tier", value: tier, onchange: () => go({ tier }) }),
        h("span", {}, label),
      ),
    );
    this.summary = h("p", { role: "status", "aria-live": "polite", class: "duplicates-summary" });
    this.actions = h(
      "div",
      { class: "duplicates-actions", hidden: true },
      copyButton("Copy script", () => this.#script()),
      h(
        "button",
        { type: "button", class: "quiet", onclick: async () => save("remove.sh", await this.#script()) },
        icon("download"),
        "Script",
      ),
      h(
        "button",
        {
          type: "button",
          class: "quiet",
          onclick: async () => {
            await this.#all();
            save("keep.txt", keepList(this.#decided()));
          },
        },
        icon("download"),
        "Keep list",
      ),
    );
    this.command = h("p", { class: "same-command soft", hidden: true });
    this.leftOut = h("details", { class: "left-out", hidden: true });
    this.list = h("ol", { class: "groups" });
    this.end = h("div", { class: "more" });
    root.append(
      h(
        "div",
        { class: "column" },
        h(
          "header",
          {},
          h("h1", { id: "duplicates-title" }, "Duplicates"),
          h(
            "p",
            {},
            "Choose what stays. Nothing is deleted here: you get a script to read, and run yourself.",
          ),
        ),
        h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, "How alike"), tiers),
        h("div", { class: "duplicates-bar" }, this.summary, this.actions),
        this.command,
        this.leftOut,
        this.list,
        this.end,
      ),
    );
    new IntersectionObserver(([entry]) => entry.isIntersecting && this.#more(), {
      rootMargin: "1200px",
    }).observe(this.end);
    this.root = root;
  }

  async show(now) {
    for (const radio of this.root.querySelectorAll("[name=tier]"))
      radio.checked = radio.value === now.tier;
    const key = `${now.index} ${now.tier}`;
    if (key === this.#key) return;
    this.#key = key;
    this.#next = 0;
    this.#groups = [];
    this.#loading = null;
    this.list.replaceChildren();
    this.actions.hidden = true;
    this.command.hidden = true;
    this.leftOut.hidden = true;
    await this.#more();
  }

  hide() {
    if (this.#loading) this.#key = null; // asks again when it is shown again
  }

  /** Loads the groups that have not been shown yet; a script is of all. */
  async #all() {
    while (this.#next !== null && this.#key) await this.#more(MOST);
  }

  async #more(limit = PAGE) {
    if (this.#loading) return this.#loading;
    if (this.#next === null || !this.#key) return undefined;
    const key = this.#key;
    const loading = this.#load(key, limit)
      .catch((failure) => {
        if (key !== this.#key) return;
        this.#next = null;
        this.summary.textContent = "";
        this.end.replaceChildren(failureMessage(failure, () => this.#again()));
      })
      .finally(() => {
        if (this.#loading === loading) this.#loading = null;
      });
    this.#loading = loading;
    return loading;
  }

  #again() {
    this.#key = null;
    this.show(state());
  }

  async #load(key, limit) {
    const index = await indexOf(state());
    if (!index) {
      this.#next = null;
      this.end.replaceChildren(noIndex());
      return;
    }
    this.end.replaceChildren(h("span", { class: "spinner" }));
    const isWanted = () => key === this.#key;
    const say = (text) => {
      this.summary.textContent = `${counted(index.rows, "image")}: ${text}`;
    };
    const asked = { index: index.name, tier: state().tier, offset: this.#next, limit };
    const reply = await finished("v1/duplicates", asked, say, isWanted);
    if (!reply) return;
    const command = removeDuplicates(index.path, state().tier);
    this.command.replaceChildren(
      "The same on the command line: ",
      h("code", {}, command),
      copyButton("Copy", command),
    );
    this.leftOut.replaceChildren(...leftOut(reply));
    this.leftOut.hidden = !reply.num_left_out;
    this.#next = reply.next_offset;
    this.found = reply;
    this.#groups.push(...reply.groups);
    this.list.append(...reply.groups.map((group) => this.#card(group, index.name)));
    this.end.replaceChildren();
    if (!this.#groups.length) this.end.append(this.#none(reply));
    this.actions.hidden = !this.#groups.length;
    this.command.hidden = !this.#groups.length;
    this.#sumUp();
  }

  #none({ num_images: number }) {
    const looser =
      state().tier === "similar"
        ? []
        : [
            ["Look for near copies", () => go({ tier: "near" }), true],
            ["Look for similar ones", () => go({ tier: "similar" })],
          ].slice(state().tier === "near" ? 1 : 0);
    return message({
      title: "No duplicates",
      text: `None among ${counted(number, "image")}, at this setting.`,
      actions: looser,
    });
  }

  #decided() {
    return this.#review.decided(this.#groups);
  }

  async #script() {
    await this.#all();
    return removalScript(this.#decided());
  }

  #sumUp() {
    const removed = this.#decided().flatMap((group) => group.removed);
    const { num_groups: number, num_redundant: redundant } = this.found;
    const { redundant_bytes: redundantBytes } = this.found;
    const size = (items) => items.reduce((sum, item) => sum + (item.bytes ?? 0), 0);
    // Groups that are not shown yet keep what the server would keep.
    const others = this.#groups.flatMap((group) => group.others);
    const going = redundant - others.length + removed.length;
    const space = redundantBytes - size(others) + size(removed);
    this.summary.textContent = this.#groups.length
      ? `${counted(number, "group")}. ${counted(going, "image")} would go, ${bytes(space)}.`
      : "";
  }

  #card(group, index) {
    const members = Review.members(group);
    const tiles = members.map((item) => this.#member(group, item, index));
    const compare = h(
      "button",
      {
        type: "button",
        class: "quiet",
        onclick: () => this.compare.show(group, index, this.#review, () => this.#changed(tiles)),
      },
      "Compare",
    );
    return h(
      "li",
      { class: "group" },
      h(
        "div",
        { class: "group-head" },
        h("h2", {}, spokenName(group.keep)),
        h("span", { class: "soft" }, KINDS[group.tier] ?? group.tier),
        compare,
      ),
      h(
        "div",
        { class: "members" },
        tiles.map((tile) => tile.element),
      ),
    );
  }

  #member(group, item, index) {
    const box = h("input", {
      type: "checkbox",
      onchange: () => {
        if (!this.#review.set(group, item, box.checked)) announce("One image of a group stays");
        this.#sumUp();
        follow();
      },
    });
    const word = h("span");
    const image = h("img", {
      alt: spokenName(item),
      loading: "lazy",
      width: item.width ?? 1,
      height: item.height ?? 1,
    });
    image.src = thumbnail(item.id, index, 512);
    const score = item.score === undefined ? "" : ` · ${item.score.toFixed(3)}`;
    const element = h(
      "div",
      { class: "member" },
      h(
        "label",
        {},
        h("span", { class: "image" }, image),
        h("span", { class: "keep" }, box, word),
      ),
      h("p", { class: "name", title: item.name }, nameOf(item)),
      h("p", { class: "soft" }, `${pixels(item)} · ${bytes(item.bytes)}${score}`),
    );
    const follow = () => {
      box.checked = this.#review.isKept(group, item);
      word.textContent = box.checked ? "Keep" : "Goes";
      element.classList.toggle("is-kept", box.checked);
    };
    follow();
    return { element, follow };
  }

  #changed(tiles) {
    for (const tile of tiles) tile.follow();
    this.#sumUp();
  }
}

/** Images that could not be compared, as the command line lists them. */
function leftOut({ num_left_out: number, left_out: some }) {
  return [
    h("summary", {}, `${counted(number, "image")} left out`),
    h(
      "ul",
      { tabindex: 0 },
      some.map(({ name, reason }) => h("li", {}, h("code", {}, name), ` ${reason}`)),
    ),
  ];
}
