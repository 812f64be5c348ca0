// Groups of images that look alike: a card for each, with its most typical images.

import { thumbnail } from "./api.js";
import { addImages } from "./commands.js";
import { h } from "./dom.js";
import { count, counted, spoken } from "./format.js";
import { indexOf } from "./indexes.js";
import { finished } from "./jobs.js";
import { failureMessage, message, noIndex } from "./messages.js";
import { go, linkTo, state } from "./router.js";
import { EMPTY } from "./state.js";

const NUMBERS = ["5", "10", "20", "50", "100"];
const EXAMPLES = 8;
const NAMING = [2000, 4000, 8000]; // milliseconds until names are asked for again

export function startClusters(root) {
  const view = new ClustersView(root);
  return { show: (now) => view.show(now), hide: () => view.hide() };
}

class ClustersView {
  #key = null; // what is shown or being found
  #isDone = false;

  constructor(root) {
    this.number = h(
      "select",
      { id: "num-clusters", onchange: () => go({ k: this.number.value }) },
      h("option", { value: "" }, "As many as are distinct"),
      NUMBERS.map((value) => h("option", { value }, value)),
    );
    this.status = h("p", { role: "status", "aria-live": "polite", class: "soft" });
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
          this.status,
        ),
        this.list,
        this.end,
      ),
    );
  }

  async show(now) {
    this.number.value = now.k;
    const key = `${now.index} ${now.k}`;
    if (key === this.#key) return;
    this.#key = key;
    this.#isDone = false;
    this.list.replaceChildren();
    this.status.textContent = "Starting…";
    this.end.replaceChildren(h("div", { class: "more" }, h("span", { class: "spinner" })));
    try {
      await this.#find(now, key);
    } catch (failure) {
      if (key === this.#key) this.#fail(failure);
    }
  }

  hide() {
    if (!this.#isDone) this.#key = null; // asks again when it is shown again
  }

  async #find(now, key, tries = 0) {
    const index = await indexOf(now);
    if (!index) {
      this.status.textContent = "";
      this.end.replaceChildren(noIndex());
      return;
    }
    const isWanted = () => key === this.#key;
    const say = (text) => {
      this.status.textContent = text;
    };
    const asked = { index: index.name, k: now.k, examples: EXAMPLES };
    const reply = await finished("v1/clusters", asked, say, isWanted);
    if (!reply) return;
    this.#isDone = true;
    this.#draw(reply, index);
    if (reply.clusters.some(({ name }) => name === null) && tries < NAMING.length) {
      await new Promise((resolve) => setTimeout(resolve, NAMING[tries]));
      if (isWanted()) await this.#find(now, key, tries + 1);
    }
  }

  #draw({ clusters, num_images: number, num_damaged: damaged }, index) {
    this.end.replaceChildren();
    if (!clusters.length) {
      this.status.textContent = "";
      this.end.append(
        message({
          title: number ? "Too few images for clusters" : "This index is empty",
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

  #fail(failure) {
    this.status.textContent = "";
    this.end.replaceChildren(
      failureMessage(failure, () => {
        this.#key = null;
        this.show(state());
      }),
    );
  }
}

function card({ name, size, tightness, examples }, at, index) {
  const title = name ?? `Cluster ${at + 1}`;
  const all = { ...EMPTY, index: state().index, k: state().k, cluster: String(at) };
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
          alt: spoken(item.member ?? item.uri),
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
