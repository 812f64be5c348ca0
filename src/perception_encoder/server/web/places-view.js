// Where photos were taken: a map of the world with a marker for the images of each place.

import { get } from "./api.js";
import { readMetadata } from "./commands.js";
import { h, icon } from "./dom.js";
import { chips } from "./filters.js";
import { count, counted } from "./format.js";
import { indexOf } from "./indexes.js";
import { failureMessage, message, noIndex } from "./messages.js";
import { go, linkTo, onState, state } from "./router.js";
import { inRegion, EMPTY, writtenFilters } from "./state.js";
import { WORLD, WorldMap } from "./world-map.js";
import { mapButtons } from "./zoom.js";

export class PlacesView {
  #key = null;

  constructor(root) {
    this.status = h("p", { role: "status", "aria-live": "polite", class: "soft" });
    this.chips = h("ul", { class: "chips", "aria-label": "Filters in use" });
    this.surface = h("div", {
      class: "world-surface",
      tabindex: 0,
      role: "group",
      "aria-label": "Map of the world. Arrow keys move it, plus and minus zoom.",
    });
    this.map = new WorldMap(this.surface, (cluster, label) => this.#link(cluster, label));
    const here = h(
      "button",
      { type: "button", class: "here", onclick: () => go(this.#within(this.map.region)) },
      icon("image"),
      "Show the images of this part",
    );
    this.stage = h("div", { class: "map-stage", hidden: true }, this.surface, here, mapButtons(this.map));
    this.end = h("div");
    const title = h("h1", { id: "places-title" }, "Places");
    root.append(h("div", { class: "map-head" }, title, this.status, this.chips), this.stage, this.end);
    onState((now, before) => {
      if (before.item && !now.item && now.view === "places") this.surface.focus();
    });
  }

  async show(now) {
    this.chips.replaceChildren(...chips(now, (filters) => go({ filters })));
    const key = JSON.stringify([now.index, now.filters]);
    if (key === this.#key) {
      this.map.draw();
      return;
    }
    this.#key = key;
    this.end.replaceChildren();
    try {
      await this.#find(now, key);
    } catch (failure) {
      if (key === this.#key) this.#stop(failureMessage(failure, () => this.show(state())));
    }
  }

  hide() {}

  async #find(now, key) {
    const index = await indexOf(now);
    if (key !== this.#key) return;
    if (!index) {
      this.#stop(noIndex());
      return;
    }
    const path = `v1/indexes/${encodeURIComponent(index.name)}`;
    const load = ({ south, north, west, east, columns }) =>
      get(`${path}/locations`, {
        bounds: [south, west, north, east].join(),
        resolution: columns,
        filters: writtenFilters(now.filters),
      });
    const { points, total } = await load(WORLD).catch((failure) => withoutColumns(path, failure));
    if (key !== this.#key) return;
    if (!points.length) {
      this.#stop(noPlaces(now, index));
      return;
    }
    const all = now.filters.length ? "" : ` of ${count(index.rows)}`;
    this.status.textContent = `${counted(total, "image")}${all} with a place.`;
    this.stage.hidden = false;
    this.map.show(points, index.name, async (grid) => (await load(grid)).points);
  }

  #stop(element) {
    this.#key = null;
    this.status.textContent = "";
    this.stage.hidden = true;
    this.end.replaceChildren(element);
  }

  /** The timeline of the images in a region. */
  #within(region) {
    const { index, filters } = state();
    return { ...EMPTY, index, sort: "-taken", filters: inRegion(filters, region) };
  }

  #link({ count: number, item, region }, label) {
    const target = number === 1 ? { ...state(), item } : this.#within(region);
    return linkTo(target, { "aria-label": label, title: label });
  }
}

/** No points, where the index has no columns for them. */
async function withoutColumns(path, failure) {
  if (failure.code !== "invalid_query") throw failure;
  const { columns } = await get(path);
  if (columns.some(({ name }) => name === "latitude")) throw failure;
  return { points: [], total: 0 };
}

function noPlaces({ filters }, index) {
  if (filters.length) {
    return message({
      title: "No image that meets these filters has a place",
      actions: [["Clear the filters", () => go({ filters: [] }), true]],
    });
  }
  return message({
    title: "No image has a place",
    text: "Places come from what cameras and phones write into files. An older index reads it with this command:",
    command: readMetadata(index.path),
  });
}
