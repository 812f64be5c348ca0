// Asks the server. Every failure is an `ApiFailure` with a message that a person can use.

const MOST_TRIES = 4;
const LONGEST_WAIT = 5; // seconds between tries

let askForKey = null;

/** Sets what to do when the server needs a key: a function that resolves once there is a session. */
export const onKeyNeeded = (ask) => {
  askForKey = ask;
};

export class ApiFailure extends Error {
  constructor(status, code, message, retryAfter = 0) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** An address below this page's own: the page may be served below a prefix. */
export function url(path, parameters = {}) {
  const found = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") found.searchParams.set(name, value);
  }
  found.hash = "";
  return found;
}

export const get = (path, parameters, options) => ask(url(path, parameters), options);

/** POST of JSON, or of a form as it is. */
export function post(path, body, options = {}) {
  const isForm = body instanceof FormData;
  return ask(url(path), {
    ...options,
    method: "POST",
    body: isForm ? body : JSON.stringify(body),
    headers: { ...options.headers, ...(isForm ? {} : { "Content-Type": "application/json" }) },
  });
}

export const thumbnail = (item, index, size) =>
  url(`v1/items/${encodeURIComponent(item)}/thumbnail`, { index, size }).href;

export const original = (item, index) =>
  url(`v1/items/${encodeURIComponent(item)}/image`, { index }).href;

async function ask(address, options = {}) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await once(address, options);
    } catch (failure) {
      if (failure.status === 401 && askForKey && !options.headers?.Authorization) {
        await askForKey();
      } else if (failure.retryAfter > 0 && tries < MOST_TRIES) {
        await wait(Math.min(failure.retryAfter, LONGEST_WAIT), options.signal);
      } else {
        throw failure;
      }
    }
  }
}

async function once(address, options) {
  let reply;
  try {
    reply = await fetch(address, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiFailure(0, "unreachable", "The server does not answer. Is it still running?");
  }
  const isJson = reply.headers.get("content-type")?.startsWith("application/json");
  if (reply.ok) return isJson ? reply.json() : reply;
  const body = isJson ? await reply.json().catch(() => null) : null;
  const { code = "error", message = `The server answered ${reply.status}.` } = body?.error ?? {};
  throw new ApiFailure(reply.status, code, message, Number(reply.headers.get("retry-after")) || 0);
}

function wait(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("aborted", "AbortError"));
    });
  });
}
