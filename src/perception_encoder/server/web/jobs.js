// Waits for work of the server that takes long: duplicates, clusters, maps.

import { get } from "./api.js";

const PAUSE = 900; // milliseconds between questions

/**
 * Asks until the work is done.
 * @param {object} asked parameters of the address.
 * @param {(text: string, share: number|null) => void} progress is called while it runs.
 * @param {() => boolean} isWanted false ends the waiting.
 * @returns the reply, or null when it is wanted no more.
 */
export async function finished(path, asked, progress, isWanted) {
  const started = performance.now();
  for (;;) {
    const reply = await get(path, asked);
    if (!isWanted()) return null;
    if (reply.state !== "running") return reply;
    const { stage = "working", share = null } = reply.progress ?? {};
    const seconds = Math.round((performance.now() - started) / 1000);
    const part = share === null ? "" : ` ${Math.round(100 * share)} %`;
    progress(`${stage[0].toUpperCase()}${stage.slice(1)}…${part}, ${seconds} s`, share);
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
    if (!isWanted()) return null;
  }
}
