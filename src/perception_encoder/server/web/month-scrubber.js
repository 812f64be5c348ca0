// A strip beside the timeline: a bar for each month as long as it has images. It goes to any month.

import { h } from "./dom.js";
import { counted, month } from "./format.js";

const YEAR = 20; // pixels that the number of a year takes
const LONGEST = 20; // pixels of a bar

/**
 * Makes the strip.
 * @param {HTMLElement} root
 * @param {object} timeline
 * @param {() => number} timeline.position of the first image in the window.
 * @param {(at: number) => void} timeline.go shows a position.
 */
export function monthScrubber(root, { position, go }) {
  let months = []; // {month, count, at}
  let chosen = null; // {place, position}: the month gone to, while the page stays there
  const bars = h("div", { class: "month-bars", "aria-hidden": "true" });
  const here = h("div", { class: "month-here", "aria-hidden": "true" });
  const label = h("output", { hidden: true });
  const strip = h(
    "div",
    {
      class: "month-strip",
      role: "slider",
      tabindex: 0,
      "aria-label": "Month",
      "aria-orientation": "vertical",
      "aria-valuemin": 0,
    },
    bars,
    here,
  );
  root.append(strip, label);

  /** The month that a position is in, with the part of it that is before the position. */
  function placeOf(at) {
    const n = Math.max(
      0,
      months.findLastIndex((one) => one.at <= at),
    );
    return n + (at - months[n].at) / months[n].count;
  }

  /** Where the window is. A month near the end may not reach its top. */
  function now() {
    const at = position();
    if (chosen?.position !== at) chosen = null;
    return chosen?.place ?? placeOf(at);
  }

  function jump(place) {
    const one = months[Math.floor(place)];
    go(one.at + Math.floor((place % 1) * one.count));
    chosen = { place, position: position() };
    follow();
  }

  const named = (one) => (one.month ? month(one.month) : "No date");

  function follow() {
    if (root.hidden || !months.length) return;
    const place = now();
    const current = months[Math.floor(place)];
    here.style.top = `${(100 * place) / months.length}%`;
    strip.setAttribute("aria-valuenow", Math.floor(place));
    strip.setAttribute("aria-valuetext", `${named(current)}, ${counted(current.count, "image")}`);
  }

  /** Says which month is at a height of the strip, in parts of it. */
  function point(share) {
    const place = Math.min(months.length - 0.001, Math.max(0, share * months.length));
    const one = months[Math.floor(place)];
    label.hidden = false;
    label.textContent = `${named(one)} · ${counted(one.count, "image")}`;
    label.style.top = `clamp(0px, ${100 * share}% - 14px, 100% - 28px)`;
    return place;
  }

  function draw() {
    bars.replaceChildren();
    const height = strip.clientHeight;
    if (!height) return;
    const most = Math.max(...months.map(({ count }) => count));
    const step = height / months.length;
    let free = -YEAR;
    let year = null;
    months.forEach((one, n) => {
      const bar = h("div", { class: "month-bar" });
      bar.style.top = `${n * step}px`;
      bar.style.height = `${Math.max(1, Math.min(10, step - (step > 3 ? 1 : 0)))}px`;
      bar.style.width = `${3 + (LONGEST - 3) * Math.sqrt(one.count / most)}px`;
      bars.append(bar);
      const ofYear = one.month?.slice(0, 4);
      if (ofYear && ofYear !== year && n * step >= free && n * step < height - YEAR / 2) {
        const text = h("span", { class: "month-year" }, ofYear);
        text.style.top = `${n * step}px`;
        bars.append(text);
        free = n * step + YEAR;
      }
      year = ofYear;
    });
  }

  const shareOf = (event) => {
    const box = strip.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientY - box.top) / box.height));
  };
  const isPressed = (event) => strip.hasPointerCapture(event.pointerId);
  strip.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    strip.setPointerCapture(event.pointerId);
    jump(point(shareOf(event)));
  });
  strip.addEventListener("pointermove", (event) => {
    const place = point(shareOf(event));
    if (isPressed(event)) jump(place);
  });
  const rest = () => {
    label.hidden = true;
  };
  strip.addEventListener("pointerup", (event) => event.pointerType !== "mouse" && rest());
  for (const name of ["pointerleave", "blur"]) strip.addEventListener(name, rest);
  strip.addEventListener("keydown", (event) => {
    const from = Math.floor(now());
    const yearOf = (n) => months[n].month?.slice(0, 4);
    const nextYear = () => {
      const n = months.findIndex((_, at) => at > from && yearOf(at) !== yearOf(from));
      return n < 0 ? months.length - 1 : n;
    };
    const thisYear = (at) => months.findIndex((_, n) => yearOf(n) === yearOf(at));
    const to = {
      ArrowUp: () => from - 1,
      ArrowLeft: () => from - 1,
      ArrowDown: () => from + 1,
      ArrowRight: () => from + 1,
      PageUp: () => thisYear(Math.max(0, thisYear(from) === from ? from - 1 : from)),
      PageDown: nextYear,
      Home: () => 0,
      End: () => months.length - 1,
    }[event.key]?.();
    if (to === undefined) return;
    event.preventDefault();
    const n = Math.min(months.length - 1, Math.max(0, to));
    jump(n);
    point((n + 0.5) / months.length);
  });
  new ResizeObserver(draw).observe(strip);

  return {
    /** Takes the days of another timeline; null hides the strip. */
    show(days) {
      months = days ? monthsOf(days) : [];
      root.hidden = months.length < 2;
      strip.setAttribute("aria-valuemax", Math.max(0, months.length - 1));
      rest();
      if (!root.hidden) draw();
      follow();
    },
    follow,
  };
}

function monthsOf(days) {
  const found = [];
  for (const { day, count, at } of days) {
    const ofDay = day?.slice(0, 7) ?? null;
    if (found.length && found.at(-1).month === ofDay) found.at(-1).count += count;
    else found.push({ month: ofDay, count, at });
  }
  return found;
}
