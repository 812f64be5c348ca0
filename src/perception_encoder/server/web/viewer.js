// One image, large, with its properties. It opens when the address names an item.

import { get, original, thumbnail } from "./api.js";
import { details } from "./details.js";
import { $, announce, h, icon } from "./dom.js";
import { fileName, meaning, score } from "./format.js";
import { indexOf } from "./indexes.js";
import { momentOf, nameOf, onlyMoments, spokenName } from "./items.js";
import { imageLayer, partBox, place } from "./part-box.js";
import { joinPart, writeBox } from "./parts.js";
import { forgetExplanation, relevanceOverlay } from "./relevance-overlay.js";
import { depth, go, linkTo, onState, state } from "./router.js";
import { EMPTY } from "./state.js";
import { VideoPlayer, videoUrl } from "./video-player.js";
import { zoomable, zoomButtons } from "./zoom.js";

const LARGE = 2048;
const SMALL = 512; // what the grid has loaded already, shown until the large one is there
const PAN = 80; // pixels

/**
 * Starts the viewer.
 * @param {HTMLDialogElement} dialog
 * @param {{at: Function, has: Function, item: Function, load: Function, focus: Function}} neighbors
 *   the grid; `load` resolves to the item at a position.
 */
export function startViewer(dialog, neighbors) {
  let shown = null; // the item's id,
  let item = null; // and the item itself
  let openedAt = 0;
  let stage = null;

  async function show(id) {
    const index = await indexOf(state());
    try {
      const found =
        neighbors.item(neighbors.at({ id })) ??
        (await get(`v1/items/${encodeURIComponent(id)}`, { index: index?.name }));
      if (state().item !== id) return;
      [shown, item] = [id, found];
      const at = neighbors.at(item);
      const place = { index: index.name, at, hasNext: at >= 0 && neighbors.has(at + 1), step };
      stage = fill(dialog, item, place, stage);
    } catch (failure) {
      dialog.replaceChildren(
        h(
          "div",
          { class: "message" },
          h("h2", {}, "That image cannot be shown"),
          h("p", {}, failure.message),
          h("button", { type: "button", onclick: leave }, "Close"),
        ),
      );
    }
    if (!dialog.open) {
      openedAt = depth();
      dialog.showModal();
    }
    $("h2", dialog)?.focus();
  }

  async function step(by) {
    const asked = state().item;
    const from = neighbors.item(neighbors.at({ id: asked })) ?? item;
    const at = from ? neighbors.at(from) : -1;
    if (at < 0 || !neighbors.has(at + by)) {
      announce(by > 0 ? "The last image" : "The first image");
      return;
    }
    const next = await neighbors.load(at + by);
    if (next && state().item === asked) go({ item: next.id }, { replace: true });
  }

  /** Back to where it was opened, so that the back button does not open it again. */
  function leave() {
    if (openedAt > 0 && depth() === openedAt) history.back();
    else go({ item: null }, { replace: true });
  }

  onState((now, before) => {
    if (now.item && now.item !== shown) show(now.item);
    else if (!now.item && dialog.open) {
      dialog.close();
      dialog.replaceChildren(); // a video would play on
      forgetExplanation();
      if (now.view === "search" && before.item && now.like !== before.item && item)
        neighbors.focus(item);
      [shown, item, stage] = [null, null, null];
    }
  });
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    leave();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) leave();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.matches("video, input")) return; // they have keys of their own
    const isWhy = event.key === "w" && stage?.why;
    if (isWhy) stage.why.toggle();
    const [x, y] = ARROWS[event.key] ?? [0, 0];
    const zooming = stage?.zooming;
    const isZoom = zooming?.key(event) || ((x || y) && zooming?.pan(PAN * x, PAN * y));
    if (!isZoom && x) step(x);
    if (isWhy || isZoom || x) event.preventDefault();
  });
}

const ARROWS = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

/**
 * Fills the dialog.
 * @param {object|null} before the stage that it has; another moment of its video is shown there.
 * @returns {{element: HTMLElement, player?: VideoPlayer, zooming?: object}} the stage.
 */
function fill(dialog, item, { index, at, hasNext, step }, before) {
  const arrow = (name, label, by, enabled) =>
    h(
      "button",
      {
        type: "button",
        class: `round arrow ${name}`,
        "aria-label": label,
        disabled: !enabled,
        onclick: () => step(by),
      },
      icon(name),
    );
  const arrows = [
    arrow("left", "Previous image", -1, at > 0),
    arrow("right", "Next image", 1, hasNext),
  ];
  if (momentOf(item) && before?.player?.plays(item, index)) {
    before.player.show(item);
    for (const old of before.element.querySelectorAll(".arrow")) old.remove();
    before.element.append(...arrows);
    $("aside", dialog).replaceWith(panel(item, index));
    return before;
  }
  const stage = momentOf(item) ? videoStage(item, index) : imageStage(item, index);
  stage.element.append(...arrows);
  dialog.replaceChildren(
    stage.element,
    panel(item, index, stage.why),
    h(
      "button",
      { type: "button", class: "round close", "aria-label": "Close", data: { close: "" } },
      icon("close"),
    ),
  );
  return stage;
}

function videoStage(item, index) {
  const player = new VideoPlayer(item, index, (id) => go({ item: id }, { replace: true }));
  return { element: h("div", { class: "stage" }, player.element), player };
}

function imageStage(item, index) {
  const image = large(item, index);
  const element = h("div", { class: "stage" }, image);
  const zooming = zoomable(element, image, () => sharpen(image, item, index));
  const buttons = zoomButtons(zooming.zoom);
  const carried = { ...EMPTY, index: state().index, filters: state().filters };
  buttons.append(
    partBox(element, image, (box) => go({ ...carried, like: joinPart(item.id, writeBox(box)) })),
  );
  element.append(buttons);
  if (item.box && item.width && item.height) {
    const { x, y, width, height } = item.box;
    const [across, down] = [100 / item.width, 100 / item.height];
    const found = h("div", { class: "found-box", role: "img", "aria-label": "The part that was found" });
    place(found, { x: x * across, y: y * down, width: width * across, height: height * down });
    imageLayer(element, image).append(found);
  }
  return { element, zooming, why: relevanceOverlay(image, item, index) };
}

function large(item, index) {
  const size = { width: item.width ?? 512, height: item.height ?? 512 };
  const image = h("img", { alt: spokenName(item), draggable: "false", ...size });
  image.src = thumbnail(item.id, index, SMALL);
  if (Math.max(size.width, size.height) > SMALL) {
    const better = new Image();
    better.onload = () => {
      image.src = better.src;
    };
    better.src = thumbnail(item.id, index, LARGE);
  }
  image.onerror = () =>
    image.replaceWith(
      h(
        "p",
        { class: "lost" },
        icon("image"),
        "The image is not where it was when it was indexed, or cannot be read.",
      ),
    );
  return image;
}

/** Loads the stored image where it has more pixels than what is shown. */
function sharpen(image, item, index) {
  if (Math.max(item.width ?? 0, item.height ?? 0) <= LARGE || image.dataset.isSharp) return;
  image.dataset.isSharp = "";
  const better = new Image();
  better.onload = () => {
    image.src = better.src;
  };
  better.src = original(item.id, index);
}

function panel(item, index, why) {
  const isMoment = momentOf(item) !== null;
  const name = fileName(isMoment ? item.uri : (item.member ?? item.uri));
  const carried = { ...EMPTY, index: state().index, filters: state().filters };
  const link = (target, mark, label, isMain) =>
    linkTo(target, { class: isMain ? "button primary" : "button" }, icon(mark), label);
  return h(
    "aside",
    { class: "about" },
    h("h2", { tabindex: -1 }, name),
    Number.isFinite(item.shownScore) &&
      h(
        "p",
        { class: "fit" },
        item.label && h("span", { class: `mark ${item.label}` }),
        [meaning(item.label), `score ${score(item.shownScore)}`].filter(Boolean).join(", "),
      ),
    h(
      "div",
      { class: "actions" },
      isMoment
        ? link({ ...carried, filters: onlyMoments(carried.filters), like: item.id }, "alike", "Similar moments", true)
        : link({ ...carried, like: item.id }, "alike", "More like this", true),
      why?.button,
      link({ ...EMPTY, view: "classify", index: state().index, like: item.id }, "tag", "Classify"),
      h(
        "a",
        { class: "button", href: original(item.id, index), target: "_blank", rel: "noopener" },
        icon("open"),
        isMoment ? "Open frame" : "Open original",
      ),
      h(
        "a",
        {
          class: "button",
          href: isMoment ? videoUrl(item, index) : original(item.id, index),
          download: isMoment ? fileName(item.uri) : name,
        },
        icon("download"),
        isMoment ? "Download video" : "Download",
      ),
    ),
    why?.element,
    details(item),
    item.also?.length > 0 && also(item.also, index),
  );
}

function also(items, index) {
  return h(
    "div",
    { class: "also-list" },
    h("h3", {}, "Copies and other files of the shot"),
    h(
      "ul",
      {},
      items.map((item) => {
        const image = h("img", { alt: "", width: 56, height: 56, loading: "lazy" });
        image.src = thumbnail(item.id, index, 128);
        return h(
          "li",
          {},
          image,
          h("span", {}, nameOf(item)),
          h("span", { class: "soft" }, score(item.score)),
        );
      }),
    ),
  );
}
