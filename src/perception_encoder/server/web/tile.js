// One image of the grid.

import { thumbnail } from "./api.js";
import { h, icon } from "./dom.js";
import { clock, counted, meaning, score, wallClock } from "./format.js";
import { momentOf, nameOf, numMomentsOf, spokenName } from "./items.js";

const NARROW = 76; // pixels; no name fits below an image of that width

/**
 * Makes a tile: a link that opens the image.
 * @param {object} item as the server describes it.
 * @param {object} place its index, address, position, number of all images, box, whether it is
 *   selected, and whether it goes without a caption.
 */
export function tile(item, { index, href, at, total, box, isSelected, isBare = false }) {
  const image = h("span", { class: "frame-of" }, thumbnailOf(item, index, box));
  if (item.also?.length) {
    image.append(h("span", { class: "also", title: "Folded: copies and other files of the shot" }, `+${item.also.length}`));
  }
  const moment = momentOf(item);
  if (moment) {
    const number = numMomentsOf(item);
    const text = number ? counted(number, "moment") : clock(moment.start);
    image.append(h("span", { class: "moment" }, icon("play"), text));
  }
  const link = h("a", { href, tabindex: -1, title: item.name }, image);
  if (isBare) link.append(h("span", { class: "unseen" }, takenAt(item)));
  else link.append(caption(item, box.width));
  const name = spokenName(item);
  const check = h("input", { type: "checkbox", tabindex: -1, "aria-label": `Select ${name}` });
  const element = placed(link, { at, total, box });
  element.append(check);
  markSelected(element, isSelected);
  return element;
}

/** A tile of an image that is not there yet. */
export function emptyTile({ at, total, box }) {
  const link = h("a", { tabindex: -1, "aria-label": "Loading" }, h("span", { class: "frame-of" }));
  const element = placed(link, { at, total, box });
  element.isEmpty = true;
  return element;
}

function placed(link, { at, total, box }) {
  link.querySelector(".frame-of").style.height = `${box.height}px`;
  const places = { role: "listitem", "aria-posinset": at + 1, "aria-setsize": total ?? -1 };
  const element = h("div", { class: "tile", ...places, data: { at } }, link);
  element.style.left = `${box.left}px`;
  element.style.top = `${box.top}px`;
  element.style.width = `${box.width}px`;
  return element;
}

/** Shows whether a tile is selected. */
export function markSelected(element, isSelected) {
  element.classList.toggle("is-selected", isSelected);
  const check = element.querySelector("input");
  if (check) check.checked = isSelected;
}

function caption(item, width) {
  const parts = [];
  if (item.label)
    parts.push(h("span", { class: `mark ${item.label}`, title: meaning(item.label) }));
  if (width > NARROW) {
    parts.push(
      h("span", { class: "name", "aria-hidden": "true" }, nameOf(item)),
    );
  }
  if (Number.isFinite(item.shownScore)) {
    const said = [item.label && meaning(item.label), "score "].filter(Boolean).join(", ");
    parts.push(
      h("span", { class: "score" }, h("span", { class: "unseen" }, said), score(item.shownScore)),
    );
  }
  return h("span", { class: "caption" }, parts);
}

const takenAt = ({ metadata }) => (metadata.taken_at ? wallClock(metadata.taken_at) : "");

function thumbnailOf(item, index, box) {
  const sharp = Math.max(box.width, box.height) * Math.min(devicePixelRatio, 2);
  const image = h("img", {
    alt: spokenName(item),
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
  const name = spokenName(item);
  return h(
    "span",
    { class: "gone" },
    icon("image"),
    h("span", {}, "cannot be shown"),
    h("span", { class: "unseen" }, name),
  );
}
