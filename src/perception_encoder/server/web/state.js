// What the page shows, as one value, and that value as a query string. No DOM access.

export const VIEWS = ["search", "places", "clusters", "map", "duplicates", "classify", "index"];

export const EMPTY = Object.freeze({
  view: "search", // one of VIEWS
  index: null, // an index's name; null: the server's first
  query: "",
  not: "", // texts to stay away from, separated by commas
  like: null, // an item's id, or
  image: null, // the name of an image in this browser; see images.js
  liked: "", // ids of items that hits should be like, separated by commas
  unliked: "", // and of those that they should not be like
  mode: "", // where the query is searched: see MODES
  balance: 0.5, // of text and image: 0 is the text alone, 1 the image alone
  filters: Object.freeze([]), // {column, op, value}, as POST /v1/search takes them
  fold: false, // near copies under the best of them
  sort: "", // of images without a query: see SORTS
  item: null, // open in the viewer
  saved: "", // the name of a saved search that is shown
  cluster: "", // the number of a cluster whose images are shown
  k: "", // how many clusters; "": as many as are distinct
  tier: "pixels", // of duplicates
  labels: "",
  template: "",
});

/** What a query is searched in: how images look, the texts stored with them, or both. */
export const MODES = Object.freeze({ "": "Images", text: "Text", both: "Both" });

/** Orders of images without a query, as GET /v1/items takes them; "" is that of the index. */
export const SORTS = Object.freeze({
  "": ["As indexed", {}],
  name: ["Name", { sort: "name" }],
  "-taken": ["Taken, newest first", { sort: "taken_at", descending: true }],
  taken: ["Taken, oldest first", { sort: "taken_at" }],
  "-date": ["Newest file first", { sort: "date", descending: true }],
  date: ["Oldest file first", { sort: "date" }],
  "-size": ["Largest file first", { sort: "size", descending: true }],
  size: ["Smallest file first", { sort: "size" }],
});

const NAMES = {
  view: "view",
  index: "index",
  query: "q",
  mode: "in",
  not: "not",
  like: "like",
  image: "image",
  liked: "more",
  unliked: "less",
  sort: "sort",
  saved: "saved",
  cluster: "cluster",
  k: "k",
  item: "item",
  tier: "tier",
  labels: "labels",
  template: "template",
};

/** Reads a query string; what it cannot use it leaves out. */
export function parse(search) {
  const given = new URLSearchParams(search);
  const state = { ...EMPTY };
  for (const [key, name] of Object.entries(NAMES)) state[key] = given.get(name) ?? EMPTY[key];
  if (!VIEWS.includes(state.view)) state.view = "search";
  if (!/^\d{0,6}$/.test(state.cluster)) state.cluster = "";
  if (!/^\d{0,4}$/.test(state.k)) state.k = "";
  if (!["bytes", "pixels", "near", "similar"].includes(state.tier)) state.tier = EMPTY.tier;
  if (!(state.mode in MODES)) state.mode = EMPTY.mode;
  if (!(state.sort in SORTS)) state.sort = EMPTY.sort;
  const balance = Number.parseFloat(given.get("balance"));
  if (balance >= 0 && balance <= 1) state.balance = balance;
  state.fold = given.has("fold");
  state.filters = given.getAll("f").map(parseFilter).filter(Boolean);
  return state;
}

/** Writes a state as a query string, "" for the empty one. */
export function write(state) {
  const out = new URLSearchParams();
  for (const [key, name] of Object.entries(NAMES)) {
    if (state[key] !== EMPTY[key] && state[key] !== "") out.set(name, state[key]);
  }
  if (hasBoth(state) && state.balance !== EMPTY.balance) out.set("balance", state.balance);
  if (state.fold) out.set("fold", "");
  for (const { column, op, value } of state.filters) {
    out.append("f", JSON.stringify(value === undefined ? [column, op] : [column, op, value]));
  }
  const text = out
    .toString()
    .replaceAll("fold=&", "fold&")
    .replace(/fold=$/, "fold");
  return text ? `?${text}` : "";
}

/** Whether there is something to search for. */
export const hasQuery = (state) => Boolean(state.query.trim() || state.like || state.image);

/** Whether a search is in the address itself, and not only by the name of a saved one. */
export const hasOwnQuery = (state) => hasQuery(state) || hasMarks(state) || Boolean(state.not.trim());

/** Whether hits are marked. */
export const hasMarks = (state) => Boolean(state.liked || state.unliked);

/** Whether a text and an image have to be balanced. */
export const hasBoth = (state) =>
  Boolean(state.query.trim() && state.mode !== "text" && (state.like || state.image));

/** Whether images are listed by when they were taken, under their months and days. */
export const isTimeline = (state) =>
  state.view === "search" && isListing(state) && !state.cluster && state.sort.endsWith("taken");

/** Whether images are listed, not searched. */
export const isListing = (state) => !hasOwnQuery(state) && !state.saved;

/** The tab that a state belongs to. */
export const tabOf = (state) => (isTimeline(state) ? "timeline" : state.view);

/** Filters as GET requests take them. */
export const writtenFilters = (filters) => (filters.length ? JSON.stringify(filters) : null);

const SIDES = {
  south: ["latitude", ">="],
  north: ["latitude", "<"],
  west: ["longitude", ">="],
  east: ["longitude", "<"],
};
const ENDS = { north: 90, east: 180 };
const isOf = (column, op) => (filter) => filter.column === column && filter.op.replace("<=", "<") === op;

/** Filters with a region, {south, north, west, east}, in the place of another one. */
export function inRegion(filters, region) {
  const others = filters.filter(({ column }) => column !== "latitude" && column !== "longitude");
  const sides = Object.entries(SIDES).map(([side, [column, op]]) => ({
    column,
    op: region[side] >= ENDS[side] ? "<=" : op,
    value: region[side],
  }));
  return [...others, ...sides];
}

/** The region of filters and the filters that it is made of; null where it is open on a side. */
export function regionOf(filters) {
  const found = Object.entries(SIDES).map(([side, one]) => [side, filters.find(isOf(...one))]);
  if (!found.every(([, filter]) => filter)) return null;
  return {
    region: Object.fromEntries(found.map(([side, { value }]) => [side, value])),
    members: found.map(([, filter]) => filter),
  };
}

/** What decides which images are found: equal texts mean equal results. */
export const resultsKey = (state) =>
  write({
    ...EMPTY,
    mode: state.query.trim() ? state.mode : "",
    ...pick(state, ["index", "query", "not", "like", "image", "liked", "unliked", "balance", "filters", "fold", "sort", "saved", "cluster", "k"]),
  });

function pick(state, keys) {
  return Object.fromEntries(keys.map((key) => [key, state[key]]));
}

function parseFilter(written) {
  try {
    const [column, op, value] = JSON.parse(written);
    return typeof column === "string" && typeof op === "string" ? { column, op, value } : null;
  } catch {
    return null;
  }
}
