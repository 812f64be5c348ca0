// One image of the grid.

import { thumbnail } from "./api.js";
import { h, icon } from "./dom.js";
import { fileName, meaning, score, spoken } from "./format.js";

const NARROW = 76; // pixels; no name fits below an image of that width

/**
 * Makes a tile: a link that opens the image.
 * @param {object} item as the server describes it.
 * @param {object} place its index, address, position, number of all images, box, and whether it is selected
 */
export function tile(item, { index, href, at, total, box, isSelected }) {
  const image = h("span", { class: "frame-of" }, thumbnailOf(item, index, box));
  if (item.also?.length) {
    image.append(h("span", { class: "also", title: "Near copies" }, `+${item.also.length}`));
  }
  image.style.height = `${box.height}px`;
  const link = h("a", { href, tabindex: -1, title: item.name }, image, caption(item, box.width));
  const name = spoken(item.member ?? item.uri);
  const check = h("input", { type: "checkbox", tabindex: -1, "aria-label": `Select ${name}` });
  const element = h(
    "div",
    {
      class: "tile",
      role: "listitem",
      "aria-posinset": at + 1,
      "aria-setsize": total ?? -1,
      data: { at },
    },
    link,
    check,
  );
  markSelected(element, isSelected);
  element.style.left = `${box.left}px`;
  element.style.top = `${box.top}px`;
  element.style.width = `${box.width}px`;
  return element;
}

/** Shows whether a tile is selected. */
export function markSelected(element, isSelected) {
  element.classList.toggle("is-selected", isSelected);
  element.querySelector("input").checked = isSelected;
}

function caption(item, width) {
  const parts = [];
  if (item.label)
    parts.push(h("span", { class: `mark ${item.label}`, title: meaning(item.label) }));
  if (width > NARROW) {
    parts.push(
      h("span", { class: "name", "aria-hidden": "true" }, fileName(item.member ?? item.uri)),
    );
  }
  if (item.score !== undefined) {
    const said = [item.label && meaning(item.label), "score "].filter(Boolean).join(", ");
    parts.push(
      h("span", { class: "score" }, h("span", { class: "unseen" }, said), score(item.score)),
    );
  }
  return h("span", { class: "caption" }, parts);
}

function thumbnailOf(item, index, box) {
  const sharp = Math.max(box.width, box.height) * Math.min(devicePixelRatio, 2);
  const image = h("img", {
    alt: spoken(item.member ?? item.uri),
    width: Math.round(box.width),
    height: Math.round(box.height),
    loading: "lazy",
    decoding: "async",
    draggable: "false",
    onload: () => image.classList.add("is-drawn"),
    onerror: () => image.replaceWith(gone(item)),
  });
  image.src = thumbnail(item.id, index, sharp > 300 ? 512 : 256);
  return image;
}

function gone(item) {
  const name = spoken(item.member ?? item.uri);
  return h(
    "span",
    { class: "gone" },
    icon("image"),
    h("span", {}, "cannot be shown"),
    h("span", { class: "unseen" }, name),
  );
}
