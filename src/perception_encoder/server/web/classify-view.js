// Zero-shot classification: labels compared with one image.

import { original, post, thumbnail } from "./api.js";
import { $, h, icon, settled } from "./dom.js";
import { score } from "./format.js";
import { indexOf } from "./indexes.js";
import { failureMessage } from "./messages.js";
import { addressOf, find, keep } from "./images.js";
import { joinPart, splitPart } from "./parts.js";
import { go, state } from "./router.js";

const MOST = 100; // bars
const PAUSE = 350; // milliseconds after the last key
const AGAIN = 2000; // milliseconds until the fit of labels is asked for again
const MOST_TRIES = 5;
const PATIENCE = 500; // milliseconds until the page says that it is busy

export function startClassify(root) {
  const view = new ClassifyView(root);
  return { show: (now) => view.show(now) };
}

/** Labels as they were written: one a line, or with commas between. */
export const labelsOf = (written) => [
  ...new Set(
    written
      .split(/[,\n]/)
      .map((label) => label.trim())
      .filter(Boolean),
  ),
];

class ClassifyView {
  #asked = null; // what the bars answer
  #tries = 0;
  #subject = null;
  #bars = new Map(); // label → element

  constructor(root) {
    const file = h("input", {
      type: "file",
      accept: "image/*",
      hidden: true,
      onchange: () => this.#take(file),
    });
    this.place = h("div", { class: "subject" });
    this.choose = h(
      "button",
      { type: "button", onclick: () => file.click() },
      icon("image"),
      h("span", {}, "Choose an image"),
    );
    const changed = settled(
      () =>
        go({ labels: this.labels.value, template: this.template.value.trim() }, { replace: true }),
      PAUSE,
    );
    this.labels = h("textarea", {
      id: "labels",
      rows: 5,
      spellcheck: false,
      placeholder: "cat, dog, red car",
      oninput: changed,
    });
    this.template = h("input", {
      type: "text",
      id: "template",
      spellcheck: false,
      placeholder: "a photo of a {}",
      oninput: changed,
      "aria-describedby": "template-hint",
    });
    this.output = h("div", { class: "bars-place" });
    this.status = h("p", { class: "unseen", role: "status", "aria-live": "polite" });
    root.append(
      h(
        "div",
        { class: "column" },
        h(
          "header",
          {},
          h("h1", { id: "classify-title" }, "Classify"),
          h(
            "p",
            {},
            "Compare labels with an image: drop it, paste it, or choose “Classify” on an image of the index.",
          ),
        ),
        h(
          "div",
          { class: "classify" },
          h("div", {}, this.place, this.choose, file),
          h(
            "div",
            { class: "classify-form" },
            h("label", { for: "labels" }, "Labels"),
            this.labels,
            h(
              "label",
              { for: "template" },
              "Sentence ",
              h("span", { class: "soft", id: "template-hint" }, "{} stands for the label"),
            ),
            this.template,
            this.output,
            this.status,
          ),
        ),
      ),
    );
  }

  async show(now) {
    if (document.activeElement !== this.labels) this.labels.value = now.labels;
    if (document.activeElement !== this.template) this.template.value = now.template;
    const index = await indexOf(now).catch(() => null);
    await this.#showSubject(now, index);
    await this.#ask(now, index);
  }

  async #take(input) {
    const [file] = input.files;
    input.value = "";
    if (file) go({ image: await keep(file), like: null });
  }

  async #showSubject({ like, image }, index) {
    const key = like ?? image ?? "";
    if (this.#subject === key) return;
    this.#subject = key;
    $("span", this.choose).textContent = key ? "Choose another" : "Choose an image";
    const source =
      like && index ? thumbnail(splitPart(like).item, index.name, 1024) : image && (await addressOf(image));
    if (key !== this.#subject) return;
    if (!source) {
      this.place.replaceChildren(
        h(
          "p",
          { class: "soft" },
          icon("image"),
          image ? "That image is in another browser." : "Drop an image here",
        ),
      );
      return;
    }
    const shown = h("img", { alt: "The image to classify" });
    shown.src = source;
    this.place.replaceChildren(shown);
  }

  async #ask(now, index) {
    const labels = labelsOf(now.labels);
    const template = now.template.includes("{}") ? now.template : "{}";
    const key = JSON.stringify([now.like, now.image, labels, template, index?.model]);
    if (key === this.#asked) return;
    this.#asked = key;
    if (!labels.length || !(now.like || now.image)) {
      this.#bars.clear();
      this.output.replaceChildren();
      return;
    }
    const busy = setTimeout(() => {
      if (key === this.#asked && !this.#bars.size)
        this.output.replaceChildren(h("p", { class: "answer soft" }, "Comparing…"));
    }, PATIENCE);
    try {
      const image = await encoded(now, index);
      if (!image || key !== this.#asked) return;
      const body = { images: [image], labels, templates: [template], model: index?.model ?? null };
      const [result] = (await post("v1/classify", body)).results;
      if (key !== this.#asked) return;
      if (result.error) this.#fail(new Error(result.error.message));
      else {
        this.#draw(result.labels);
        this.#askAgain(result.labels, key);
      }
    } catch (failure) {
      if (key === this.#asked) this.#fail(failure);
    } finally {
      clearTimeout(busy);
    }
  }

  /** How well labels fit is not known in a server's first seconds. */
  #askAgain(labels, key) {
    if (labels[0].fit !== null || this.#tries >= MOST_TRIES) return;
    this.#tries += 1;
    setTimeout(() => {
      if (key !== this.#asked) return;
      this.#asked = null;
      this.show(state());
    }, AGAIN);
  }

  #fail(failure) {
    this.#bars.clear();
    this.output.replaceChildren(
      failureMessage(failure, () => {
        this.#asked = null;
        this.show(state());
      }),
    );
  }

  #draw(labels) {
    if (labels.length === 1) {
      this.#answer(labels[0]);
      return;
    }
    const shown = labels.slice(0, MOST);
    const rows = shown.map((one) => {
      const row = this.#bars.get(one.label) ?? bar(one.label);
      row.fill(one);
      return [one.label, row];
    });
    this.#bars = new Map(rows);
    const [best] = shown;
    const isNone = shown.every(({ fit }) => fit === "none");
    this.output.replaceChildren(
      isNone ? h("p", { class: "answer" }, "None of these labels is likely.") : "",
      h(
        "ol",
        { class: "bars" },
        rows.map(([, row]) => row.element),
      ),
      h(
        "p",
        { class: "soft bars-note" },
        "A percentage compares a label with the other labels; a mark compares it with unrelated texts. The last number is the cosine.",
      ),
    );
    this.status.textContent = isNone
      ? "None of these labels is likely"
      : `Best: ${best.label}, ${percent(best.probability)}`;
  }

  /** A single label is a yes-or-no question; a percentage of one label says nothing. */
  #answer({ label, fit, score: cosine }) {
    this.#bars.clear();
    const [word, meaning] = ANSWERS[fit] ?? ["Not known yet", "the model is still being calibrated"];
    this.output.replaceChildren(
      h(
        "p",
        { class: "answer" },
        h("span", { class: `mark ${fit ?? ""}` }),
        h("strong", {}, word),
        h("span", {}, `${label}: ${meaning}`),
        h("span", { class: "soft cosine" }, `cosine ${score(cosine)}`),
      ),
    );
    this.status.textContent = `${word}. ${label}: ${meaning}`;
  }
}

const ANSWERS = {
  strong: ["Yes", "strong match"],
  weak: ["Perhaps", "weak match"],
  none: ["No", "unlikely"],
};

const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

function bar(label) {
  const track = h("span", { class: "track" }, h("span", { class: "fill" }));
  const share = h("span", { class: "share" });
  const cosine = h("span", { class: "soft cosine" });
  const fits = h("span", { class: "fit" });
  const element = h("li", {}, h("span", { class: "label" }, label), fits, share, cosine, track);
  return {
    element,
    fill({ probability, score: value, fit }) {
      track.firstChild.style.width = `${100 * probability}%`;
      share.textContent = percent(probability);
      cosine.textContent = score(value);
      const meaning = ANSWERS[fit]?.[1] ?? "";
      fits.replaceChildren(h("span", { class: `mark ${fit ?? ""}` }), h("span", {}, meaning));
      fits.hidden = !fit;
    },
  };
}

/** The image as the server takes it. */
async function encoded({ like, image }, index) {
  const { item, crop } = splitPart(like ?? "");
  const file = like ? await (await fetch(original(item, index?.name))).blob() : await find(image);
  if (!file) return null;
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(joinPart(reader.result.slice(reader.result.indexOf(",") + 1), crop));
    reader.onerror = () => reject(new Error("The image cannot be read."));
    reader.readAsDataURL(file);
  });
}
