// A view of what a job of the server finds, such as clusters: it waits, and asks again for names.

import { indexOf } from "./indexes.js";
import { finished } from "./jobs.js";
import { failureMessage, noIndex } from "./messages.js";
import { state } from "./router.js";

const NAMING = [2000, 4000, 8000]; // milliseconds until names of clusters are asked for again

/**
 * A subclass has the elements `status` and `end`, which is below what is shown, and the methods
 * `keyOf(state)`, `asked(state)` (parameters of the address), `started()`, `progress(text, share)`,
 * `draw(reply, index, isAgain)` and `stopped()`.
 */
export class JobView {
  #key = null; // what is shown or being found
  #isDone = false;

  /** @param {string} path of the job. */
  constructor(path) {
    this.path = path;
  }

  /** Shows what belongs to a state; returns whether that is there already. */
  async show(now) {
    const key = this.keyOf(now);
    if (key === this.#key) return true;
    this.#key = key;
    this.#isDone = false;
    this.status.textContent = "Starting…";
    this.end.replaceChildren();
    this.started();
    try {
      await this.#find(now, key);
    } catch (failure) {
      if (key === this.#key) {
        const again = () => {
          this.#key = null;
          this.show(state());
        };
        this.#stop(failureMessage(failure, again));
      }
    }
    return false;
  }

  hide() {
    if (!this.#isDone) this.#key = null; // asks again when it is shown again
  }

  async #find(now, key, tries = 0) {
    const index = await indexOf(now);
    const isWanted = () => key === this.#key;
    if (!isWanted()) return;
    if (!index) {
      this.#stop(noIndex());
      return;
    }
    const asked = { index: index.name, ...this.asked(now) };
    const reply = await finished(this.path, asked, (...said) => this.progress(...said), isWanted);
    if (!reply) return;
    this.#isDone = true;
    this.draw(reply, index, tries > 0);
    const clusters = reply.groups ?? reply.clusters;
    if (clusters.some(({ name }) => name === null) && tries < NAMING.length) {
      await new Promise((resolve) => setTimeout(resolve, NAMING[tries]));
      if (isWanted()) await this.#find(now, key, tries + 1);
    }
  }

  #stop(element) {
    this.status.textContent = "";
    this.stopped();
    this.end.replaceChildren(element);
  }
}
