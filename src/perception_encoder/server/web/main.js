// Starts the page: tabs, indexes, the views, and the keys that work everywhere.

import { startClassify } from "./classify-view.js";
import { ClustersView } from "./clusters-view.js";
import { $ } from "./dom.js";
import { startDuplicates } from "./duplicates-view.js";
import { startIndexView } from "./index-view.js";
import { showChoice, startChoice } from "./indexes.js";
import { MapView } from "./map-view.js";
import { keep, startTaking } from "./images.js";
import { PlacesView } from "./places-view.js";
import { address, go, onState, start, state, tabState } from "./router.js";
import { startSearch } from "./search-view.js";
import { startSession } from "./session.js";
import { tabOf } from "./state.js";
import { startTheme } from "./theme.js";
import { startViewer } from "./viewer.js";

const TITLES = {
  search: "Images",
  timeline: "Timeline",
  places: "Places",
  clusters: "Clusters",
  map: "Map",
  duplicates: "Duplicates",
  classify: "Classify",
  index: "Index",
};

function startTabs() {
  const tabs = document.querySelectorAll("[data-tab]");
  for (const tab of tabs) {
    tab.addEventListener("click", (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      go(tabState(tab.dataset.tab));
    });
  }
  onState((now) => {
    for (const tab of tabs) {
      tab.href = address(tabState(tab.dataset.tab));
      if (tab.closest("nav") && tab.dataset.tab === tabOf(now)) {
        tab.setAttribute("aria-current", "page");
        const nav = tab.parentElement; // on a phone it is wider than the screen
        nav.scrollLeft = tab.offsetLeft - (nav.clientWidth - tab.offsetWidth) / 2;
      } else tab.removeAttribute("aria-current");
    }
    const query = now.view === "search" && now.query.trim();
    document.title = query ? `${query} – Images` : TITLES[tabOf(now)];
    showChoice(now);
  });
}

function startViews(views) {
  const places = {}; // how far each view was scrolled
  onState((now, before) => {
    if (before.view !== now.view) places[before.view] = scrollY;
    for (const name of Object.keys(views)) $(`#view-${name}`).hidden = name !== now.view;
    for (const [name, view] of Object.entries(views)) if (name !== now.view) view.hide?.();
    views[now.view].show(now);
    if (before.view !== now.view) scrollTo({ top: places[now.view] ?? 0 });
  });
}

function startKeys() {
  addEventListener("keydown", (event) => {
    const isWriting = event.target.closest?.("input, textarea, select");
    if (event.key !== "/" || isWriting || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    if (state().view !== "search") go(tabState("search"));
    $("#query").focus();
    $("#query").select();
  });
}

history.scrollRestoration = "manual";
startSession($("#key-dialog"));
startTheme($("#theme"));
startTabs();
const search = startSearch($("#view-search"));
startViews({
  search,
  places: new PlacesView($("#view-places")),
  clusters: new ClustersView($("#view-clusters")),
  map: new MapView($("#view-map")),
  duplicates: startDuplicates($("#view-duplicates")),
  classify: startClassify($("#view-classify")),
  index: startIndexView($("#view-index")),
});
startViewer($("#viewer"), search.neighbors);
startKeys();
startTaking($("#drop-hint"), async (file) => {
  const image = await keep(file);
  const view = state().view === "classify" ? "classify" : "search";
  go({ ...(view === state().view ? {} : tabState(view)), view, image, like: null, saved: "", item: null });
});
startChoice()
  .then(() => showChoice(state()))
  .catch(() => {}); // the view that is shown says what is wrong
start();
$("#hints").hidden = false; // only now, so that no view pushes it away
