// Images that are dropped, pasted or chosen. They stay in this browser.
//
// The address bar only holds an image's name here ("?image=…"), so that the back button and a
// reload find it again; someone else's browser does not have it.

const KEPT = 24; // older ones are forgotten

let opening = null;
const urls = new Map(); // name → blob address, for as long as the page lives

/** Keeps a file and returns its name. */
export async function keep(file) {
  const name = Array.from(crypto.getRandomValues(new Uint8Array(6)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
  urls.set(name, URL.createObjectURL(file));
  here.set(name, file);
  try {
    const store = await transaction("readwrite");
    store.put({ name, file, at: Date.now() });
    forgetOld(store);
  } catch {
    // private windows have no store: it lasts as long as the page
  }
  return name;
}

/** The file of a name, or null where this browser has none. */
export async function find(name) {
  if (here.has(name)) return here.get(name);
  try {
    const kept = await result((await transaction("readonly")).get(name));
    if (!kept) return null;
    here.set(name, kept.file);
    urls.set(name, URL.createObjectURL(kept.file));
    return kept.file;
  } catch {
    return null;
  }
}

/** The address under which an `<img>` can show it; null where this browser has none. */
export async function addressOf(name) {
  return (await find(name)) ? urls.get(name) : null;
}

/**
 * Takes images that are dropped on the page or pasted into it.
 * @param {HTMLElement} hint shown while something is dragged over the page.
 * @param {(file: File) => void} take is given the first image.
 */
export function startTaking(hint, take) {
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    hint.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) hint.hidden = true;
  });
  addEventListener("drop", (event) => {
    hint.hidden = true;
    if (!holdsFiles(event)) return;
    event.preventDefault();
    takeFirst(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) {
      event.preventDefault();
      takeFirst(event.clipboardData.files);
    }
  });
  function takeFirst(files) {
    const file = Array.from(files).find(isImage) ?? files[0];
    if (file) take(file);
  }
}

/** Whether a file may be an image. Some browsers give HEIC no type, so the server decides. */
const isImage = (file) => file.type.startsWith("image/");

const here = new Map(); // name → file

function database() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("images", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("kept", { keyPath: "name" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opening;
}

async function transaction(mode) {
  return (await database()).transaction("kept", mode).objectStore("kept");
}

async function forgetOld(store) {
  const all = await result(store.getAll());
  all.sort((a, b) => b.at - a.at);
  for (const old of all.slice(KEPT)) store.delete(old.name);
}

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
