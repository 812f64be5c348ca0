// A map of the index: images that look alike are near each other. Zoom, move, click an image.

import { h, icon } from "./dom.js";
import { counted } from "./format.js";
import { indexOf } from "./indexes.js";
import { finished } from "./jobs.js";
import { ImageMap } from "./image-map.js";
import { failureMessage, message, noIndex } from "./messages.js";
import { go, onState, state } from "./router.js";

const NAMING = [3000, 8000]; // milliseconds until names of clusters are asked for again

export function startMap(root) {
  const view = new MapView(root);
  return { show: (now) => view.show(now), hide: () => view.hide() };
}

class MapView {
  #key = null; // what is shown or being made
  #isDone = false;

  constructor(root) {
    this.status = h("p", { role: "status", "aria-live": "polite", class: "soft" });
    this.bar = h("progress", { max: 1, "aria-label": "Progress", hidden: true });
    const canvas = h("canvas", { tabindex: 0, role: "img" });
    const button = (mark, label, act) =>
      h("button", { type: "button", class: "round", "aria-label": label, onclick: act }, icon(mark));
    this.stage = h(
      "div",
      { class: "map-stage", hidden: true },
      canvas,
      h(
        "div",
        { class: "zoom" },
        button("minus", "Zoom out", () => this.map.zoom(1 / 1.5)),
        button("plus", "Zoom in", () => this.map.zoom(1.5)),
        button("whole", "Show all", () => this.map.fit()),
      ),
    );
    this.end = h("div");
    this.map = new ImageMap(canvas, (id) => go({ item: id }));
    root.append(
      h(
        "div",
        { class: "map-head" },
        h("h1", { id: "map-title" }, "Map"),
        this.status,
        this.bar,
      ),
      this.stage,
      this.end,
    );
    onState((now, before) => {
      if (before.item && !now.item && now.view === "map") canvas.focus();
    });
  }

  async show(now) {
    const key = String(now.index);
    if (key === this.#key) {
      this.map.draw();
      return;
    }
    this.#key = key;
    this.#isDone = false;
    this.stage.hidden = true;
    this.end.replaceChildren();
    this.status.textContent = "Starting…";
    try {
      await this.#make(now, key);
    } catch (failure) {
      if (key === this.#key) this.#fail(failure);
    }
  }

  hide() {
    if (!this.#isDone) this.#key = null; // asks again when it is shown again
  }

  async #make(now, key, tries = 0) {
    const index = await indexOf(now);
    if (!index) {
      this.status.textContent = "";
      this.end.replaceChildren(noIndex());
      return;
    }
    const isWanted = () => key === this.#key;
    const progress = (text, share) => {
      this.status.textContent = text;
      this.bar.hidden = false;
      if (share === null) this.bar.removeAttribute("value");
      else this.bar.value = share;
    };
    const reply = await finished("v1/map", { index: index.name }, progress, isWanted);
    if (!reply) return;
    this.bar.hidden = true;
    this.#isDone = true;
    const { ids, num_images: number, groups } = reply;
    if (!ids.length) {
      this.status.textContent = "";
      this.end.replaceChildren(message({ title: "This index is empty" }));
      return;
    }
    const part = ids.length < number ? `${counted(ids.length, "image")} of ${number}` : counted(number, "image");
    const isTouch = matchMedia("(hover: none)").matches;
    const hint = isTouch ? "Pinch to zoom, tap to open." : "Scroll to zoom, drag to move, click to open.";
    this.status.textContent = `${part}. ${hint}`;
    this.stage.hidden = false;
    if (tries === 0) this.map.show(reply, index.name);
    else this.map.name(groups);
    if (groups.some(({ name }) => name === null) && tries < NAMING.length) {
      await new Promise((resolve) => setTimeout(resolve, NAMING[tries]));
      if (isWanted()) await this.#make(now, key, tries + 1);
    }
  }

  #fail(failure) {
    this.status.textContent = "";
    this.bar.hidden = true;
    this.end.replaceChildren(
      failureMessage(failure, () => {
        this.#key = null;
        this.show(state());
      }),
    );
  }
}
