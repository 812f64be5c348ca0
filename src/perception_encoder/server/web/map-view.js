// A map of the index: images that look alike are near each other. Zoom, move, click an image.

import { h } from "./dom.js";
import { chips } from "./filters.js";
import { counted } from "./format.js";
import { ImageMap } from "./image-map.js";
import { JobView } from "./job-view.js";
import { message } from "./messages.js";
import { go, onState } from "./router.js";
import { writtenFilters } from "./state.js";
import { mapButtons } from "./zoom.js";

export class MapView extends JobView {
  constructor(root) {
    super("v1/map");
    this.status = h("p", { role: "status", "aria-live": "polite", class: "soft" });
    this.bar = h("progress", { max: 1, "aria-label": "Progress", hidden: true });
    this.chips = h("ul", { class: "chips", "aria-label": "Filters in use" });
    const canvas = h("canvas", { tabindex: 0, role: "img" });
    this.map = new ImageMap(canvas, (id) => go({ item: id }));
    this.stage = h("div", { class: "map-stage", hidden: true }, canvas, mapButtons(this.map));
    this.end = h("div");
    const title = h("h1", { id: "map-title" }, "Map");
    root.append(
      h("div", { class: "map-head" }, title, this.status, this.bar, this.chips),
      this.stage,
      this.end,
    );
    onState((now, before) => {
      if (before.item && !now.item && now.view === "map") canvas.focus();
    });
  }

  async show(now) {
    this.chips.replaceChildren(...chips(now, (filters) => go({ filters })));
    if (await super.show(now)) this.map.draw();
  }

  keyOf = ({ index, filters }) => JSON.stringify([index, filters]);

  asked = ({ filters }) => ({ filters: writtenFilters(filters) });

  started() {
    this.stage.hidden = true;
  }

  progress(text, share) {
    this.status.textContent = text;
    this.bar.hidden = false;
    if (share === null) this.bar.removeAttribute("value");
    else this.bar.value = share;
  }

  stopped() {
    this.bar.hidden = true;
  }

  draw(reply, index, isAgain) {
    this.bar.hidden = true;
    const { ids, num_images: number } = reply;
    if (!ids.length) {
      this.status.textContent = "";
      this.end.replaceChildren(message({ title: "No images" }));
      return;
    }
    const part =
      ids.length < number ? `${counted(ids.length, "image")} of ${number}` : counted(number, "image");
    const isTouch = matchMedia("(hover: none)").matches;
    const hint = isTouch ? "Pinch to zoom, tap to open." : "Scroll to zoom, drag to move, click to open.";
    this.status.textContent = `${part}. ${hint}`;
    this.stage.hidden = false;
    if (isAgain) this.map.name(reply.groups);
    else this.map.show(reply, index.name);
  }
}
