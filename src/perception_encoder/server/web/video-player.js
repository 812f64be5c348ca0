// Plays a video from a moment on, above a bar of its moments.

import { get, thumbnail, url } from "./api.js";
import { h, icon } from "./dom.js";
import { clock, fileName } from "./format.js";

const SHOWN = 28; // pixels of a moment's width from which on the bar shows its frame

/** The address of the video that a moment is of. */
export const videoUrl = (item, index) =>
  url(`v1/items/${encodeURIComponent(item.id)}/video`, { index }).href;

export class VideoPlayer {
  /**
   * @param {object} item a moment: playing begins there.
   * @param {string} index its name.
   * @param {(id: string) => void} open is called when another moment is chosen.
   */
  constructor(item, index, open) {
    Object.assign(this, { item, index, open });
    this.video = h("video", {
      controls: true,
      playsinline: true,
      preload: "metadata",
      poster: thumbnail(item.id, index, 1024),
      src: `${videoUrl(item, index)}#t=${item.moment.start}`,
      onerror: () => this.#fail(),
    });
    this.bar = h("div", { class: "moments", role: "group", "aria-label": "Moments", hidden: true });
    this.here = h("div", { class: "moment-here", "aria-hidden": "true" });
    this.screen = h("div", { class: "screen" }, this.video);
    this.screen.style.setProperty("--ratio", (item.width || 16) / (item.height || 9));
    this.element = h("div", { class: "player" }, this.screen, this.bar);
    this.video.addEventListener("timeupdate", () => this.#follow());
    this.video.addEventListener("loadedmetadata", () => this.#follow());
    this.seek(item.moment.start);
    this.#loadMoments();
  }

  /** Whether it plays the video that a moment is of. */
  plays(item, index) {
    return item.uri === this.item.uri && index === this.index && this.element.isConnected;
  }

  /** Goes to a moment and plays. */
  show(item) {
    this.item = item;
    this.#mark();
    this.seek(item.moment.start);
  }

  seek(seconds) {
    this.video.currentTime = seconds;
    this.video.play().catch(() => {}); // a page that nobody has touched may not play
  }

  async #loadMoments() {
    const path = `v1/items/${encodeURIComponent(this.item.id)}/segments`;
    const reply = await get(path, { index: this.index }).catch(() => null);
    if (!reply || reply.segments.length < 2) return;
    this.duration = Math.max(reply.duration, this.video.duration || 0);
    this.bar.hidden = false;
    this.bar.append(...reply.segments.map((one) => this.#button(one)), this.here);
    this.#mark();
    this.#follow();
    this.#fillIn();
  }

  #button(item) {
    const { start, end } = item.moment;
    const label = `${clock(start)} – ${clock(end)}`;
    const onclick = () => (item.id === this.item.id ? this.seek(start) : this.open(item.id));
    const button = h("button", { type: "button", "aria-label": label, title: label, onclick });
    button.item = item;
    button.style.left = `${(100 * start) / this.duration}%`;
    button.style.width = `${(100 * (end - start)) / this.duration}%`;
    return button;
  }

  /** Shows the frames of moments that are wide enough. */
  #fillIn() {
    for (const button of this.bar.querySelectorAll("button")) {
      if (button.clientWidth < SHOWN) continue;
      const image = h("img", { alt: "", loading: "lazy", draggable: "false" });
      image.src = thumbnail(button.item.id, this.index, 128);
      button.append(image);
    }
  }

  #mark() {
    for (const button of this.bar.querySelectorAll("button")) {
      if (button.item.id === this.item.id) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  #follow() {
    if (this.duration) this.here.style.left = `${(100 * this.video.currentTime) / this.duration}%`;
  }

  /** Shows the frame where the browser cannot play the file. */
  #fail() {
    const frame = h("img", { alt: `The frame at ${clock(this.item.moment.frame_time)}` });
    frame.src = thumbnail(this.item.id, this.index, 2048);
    const name = fileName(this.item.uri);
    const link = h("a", { class: "button", href: videoUrl(this.item, this.index), download: name });
    link.append(icon("download"), "Download the video");
    const note = h("p", { class: "cannot" }, "This browser cannot play this video here. ", link);
    this.screen.replaceChildren(frame);
    this.bar.before(note);
  }
}
