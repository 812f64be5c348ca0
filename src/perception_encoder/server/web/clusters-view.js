// Groups of images that look alike: a card for each, with its most typical images.

import { thumbnail } from "./api.js";
import { addImages } from "./commands.js";
import { h } from "./dom.js";
import { chips } from "./filters.js";
import { count, counted } from "./format.js";
import { spokenName } from "./items.js";
import { JobView } from "./job-view.js";
import { message } from "./messages.js";
import { go, linkTo, state } from "./router.js";
import { EMPTY, writtenFilters } from "./state.js";

const NUMBERS = ["5", "10", "20", "50", "100"];
const EXAMPLES = 8;

export class ClustersView extends JobView {
  constructor(root) {
    super("v1/clusters");
    this.number = h(
      "select",
      { id: "num-clusters", onchange: () => go({ k: this.number.value }) },
      h("option", { value: "" }, "As many as are distinct"),
      NUMBERS.map((value) => h("option", { value }, value)),
    );
    this.status = h("p", { role: "status", "aria-live": "polite", class: "soft" });
    this.chips = h("ul", { class: "chips", "aria-label": "Filters in use" });
    this.list = h("ol", { class: "clusters" });
    this.end = h("div");
    root.append(
      h(
        "div",
        { class: "column" },
        h(
          "header",
          {},
          h("h1", { id: "clusters-title" }, "Clusters"),
          h("p", {}, "Groups of images that look alike, the largest first."),
        ),
        h(
          "div",
          { class: "bar" },
          h("label", { for: "num-clusters" }, "Number"),
          this.number,
          this.chips,
          this.status,
        ),
        this.list,
        this.end,
      ),
    );
  }

  show(now) {
    this.number.value = now.k;
    this.chips.replaceChildren(...chips(now, (filters) => go({ filters })));
    return super.show(now);
  }

  keyOf = ({ index, k, filters }) => JSON.stringify([index, k, filters]);

  asked = ({ k, filters }) => ({ k, filters: writtenFilters(filters), examples: EXAMPLES });

  started() {
    this.list.replaceChildren();
    this.end.replaceChildren(h("div", { class: "more" }, h("span", { class: "spinner" })));
  }

  progress(text) {
    this.status.textContent = text;
  }

  stopped() {}

  draw({ clusters, num_images: number, num_damaged: damaged }, index) {
    this.end.replaceChildren();
    if (!clusters.length) {
      this.status.textContent = "";
      this.end.append(
        message({
          title: number ? "Too few images for clusters" : "No images",
          text: "Clusters need some dozens of images.",
          command: addImages(index.path),
        }),
      );
      return;
    }
    const lost = damaged ? `, ${count(damaged)} with damaged embeddings left out` : "";
    this.status.textContent = `${counted(clusters.length, "cluster")} of ${counted(number, "image")}${lost}`;
    this.list.replaceChildren(...clusters.map((cluster, at) => card(cluster, at, index)));
  }
}

function card({ name, size, tightness, examples }, at, index) {
  const title = name ?? `Cluster ${at + 1}`;
  const { index: named, k, filters } = state();
  const all = { ...EMPTY, index: named, k, filters, cluster: String(at) };
  return h(
    "li",
    { class: "cluster" },
    h(
      "div",
      { class: "group-head" },
      h("h2", {}, title),
      h("span", { class: "soft" }, `${counted(size, "image")} · tightness ${tightness.toFixed(2)}`),
      linkTo(all, { class: "show-all", "aria-label": `Show all of ${title}` }, "Show all"),
    ),
    h(
      "div",
      { class: "examples" },
      examples.map((item) => {
        const image = h("img", {
          alt: spokenName(item),
          width: 128,
          height: 128,
          loading: "lazy",
        });
        image.src = thumbnail(item.id, index.name, 256);
        return linkTo({ ...state(), item: item.id }, { title: item.name }, image);
      }),
    ),
  );
}
