// Two images of a group side by side, or one over the other, to see what differs.

import { thumbnail } from "./api.js";
import { h, icon } from "./dom.js";
import { bytes, pixels, time } from "./format.js";
import { nameOf, spokenName } from "./items.js";
import { Review } from "./review.js";

/** Starts the dialog; `show(group, index, review, changed)` opens it. */
export function startCompare(dialog) {
  let now = null;
  dialog.addEventListener("click", (event) => {
    if (event.target.closest("[data-close]")) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) step(by);
  });

  function step(by) {
    const others = now.group.others.length;
    now.at = (now.at + by + others) % others;
    draw();
  }

  function keep(isLeft, isRight) {
    const [left, right] = pair();
    for (const [item, isKept] of [
      [left, isLeft],
      [right, isRight],
    ].sort((a, b) => b[1] - a[1])) {
      now.review.set(now.group, item, isKept);
    }
    now.changed();
    draw();
  }

  const pair = () => {
    const [first, ...others] = Review.members(now.group);
    return [first, others[now.at]];
  };

  function draw() {
    const [left, right] = pair();
    const isKept = (item) => now.review.isKept(now.group, item);
    const choice = (label, isLeft, isRight) =>
      h(
        "button",
        {
          type: "button",
          class: isKept(left) === isLeft && isKept(right) === isRight && "primary",
          onclick: () => keep(isLeft, isRight),
        },
        label,
      );
    const number = now.group.others.length;
    dialog.replaceChildren(
      h(
        "button",
        { type: "button", class: "round close", "aria-label": "Close", data: { close: "" } },
        icon("close"),
      ),
      h("div", { class: "pair" }, side(left, right, now.index), side(right, left, now.index)),
      h(
        "div",
        { class: "choices" },
        number > 1 &&
          h(
            "button",
            { type: "button", class: "quiet", onclick: () => step(1) },
            `Next of ${number}`,
            icon("right"),
          ),
        choice("Keep the left", true, false),
        choice("Keep both", true, true),
        choice("Keep the right", false, true),
      ),
    );
  }

  return {
    show(group, index, review, changed) {
      now = { group, index, review, changed, at: 0 };
      draw();
      dialog.showModal();
    },
  };
}

function side(item, other, index) {
  const image = h("img", {
    alt: spokenName(item),
    width: item.width ?? 1,
    height: item.height ?? 1,
  });
  image.src = thumbnail(item.id, index, 1024);
  const facts = [
    [
      pixels(item),
      (item.width ?? 0) * (item.height ?? 0) > (other.width ?? 0) * (other.height ?? 0),
    ],
    [bytes(item.bytes), item.bytes > other.bytes],
    [item.modified ? time(item.modified) : "", false],
  ];
  return h(
    "figure",
    {},
    h("div", { class: "image" }, image),
    h(
      "figcaption",
      {},
      h("strong", { title: item.name }, nameOf(item)),
      facts
        .filter(([text]) => text)
        .map(([text, isMore]) => h("span", { class: isMore ? "is-more" : "soft" }, text)),
    ),
  );
}
