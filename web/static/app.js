// Puts the page together: sidebar, question box, the views of a collection; keys; first load.

import { documentView } from "./document.js";
import { documentsView } from "./documents.js";
import { button, confirmed, asked, h, iconButton, megabytes, menu, number, plural, put, say } from "./dom.js";
import { galleryView } from "./gallery.js";
import { follow } from "./live.js";
import { at, patch, remove, told } from "./api.js";
import { questionBox, searchView } from "./search.js";
import { sidebar } from "./sidebar.js";
import { changeModel, FORMATS, mayPush, modelName, pushAway, takeAway, transfers } from "./transfers.js";
import { collection, collectionId, go, loadCollections, loadDocuments, loadStatus, on, settings, state, where } from "./state.js";

const rename = async () => {
  const c = collection();
  const title = await asked(`Rename “${c.title}”`, "New name", c.title, "Rename");
  if (title === null) return;
  try {
    await patch(at("collections", c.id), { title });
    await loadCollections();
  } catch (problem) { say(told(problem), "bad"); }
};

const drop = async () => {
  const c = collection();
  const sure = await confirmed(`Delete “${c.title}”?`, [
    `${plural(c.sources ?? 0, "document")} with ${plural(c.pages ?? 0, "page")}, ${plural(c.records ?? 0, "record")} and every picture made from them will be deleted, here and in the next save.`,
    "This cannot be undone.",
  ], "Delete the collection");
  if (!sure) return;
  try {
    const receipt = await remove(at("collections", c.id));
    say(`Deleted “${c.title}”: ${plural(receipt.sources, "document")}, ${plural(receipt.records, "record")}, ${megabytes(receipt.bytes)} freed. It is in the next save.`, "good");
    go({ collection: "", view: "documents", job: "", document: "" });
    await loadCollections();
  } catch (problem) { say(told(problem), "bad"); }
};

const TABS = [["documents", "Documents"], ["search", "Search"], ["gallery", "Tables and figures"]];

const header = () => {
  const title = h("h1", { dir: "auto" });
  const facts = h("p", { class: "facts" });
  const actions = h("div", { class: "head-actions" });
  const tabs = h("nav", { class: "tabs", "aria-label": "Views of the collection" }, TABS.map(([name, label]) =>
    h("button", { type: "button", "data-view": name, onclick: () => go({ view: name, job: "", document: "", p: "" }) }, label, h("span", { class: "count" }))));
  let menuShown = "";
  const paint = () => {
    const c = collection();
    title.textContent = c?.title || (where.collection && state.collections ? "No such collection" : "default");
    document.title = `${title.textContent} · Quire`;
    const model = c?.model ? modelName(c.model) : "";
    facts.textContent = c && c.sources ? [plural(c.sources, "document"), plural(c.pages, "page"), c.records === null ? "" : plural(c.records, "record"), megabytes(c.bytes), model].filter(Boolean).join(" · ") : c && state.documents.size ? "Nothing is finished yet" : c ? "Nothing in it yet" : "";
    const items = c ? [
      ["Rename…", rename],
      ...(c.records ? FORMATS.map(([format, label]) => [`Export as ${label}`, () => takeAway(format)]) : []),
      ...(c.records && mayPush() ? [["Push to Hugging Face…", pushAway]] : []),
      ...(c.records && state.status?.models?.length > 1 ? [["Change model…", changeModel]] : []),
      ["Delete…", drop, "danger"],
    ] : [];
    const offered = JSON.stringify([c?.id, c?.title, items.map(([text]) => text)]);
    if (offered !== menuShown && !actions.querySelector("[open]")) { // nobody's choice moves away while they choose
      put(actions, c ? menu(`More for ${c.title}`, items) : null);
      menuShown = offered;
    }
    for (const tab of tabs.children) {
      tab.setAttribute("aria-current", tab.dataset.view === where.view ? "page" : "false");
      if (tab.dataset.view === "documents") tab.querySelector(".count").textContent = state.documents.size ? number(state.documents.size) : "";
    }
  };
  ["collections", "where", "documents", "row", "status"].forEach(what => on(what, paint));
  actions.addEventListener("toggle", paint, true);
  paint();
  return h("header", { class: "head" }, h("div", { class: "title" }, title, facts), actions, tabs);
};

const banner = () => {
  const line = h("p", { class: "banner", role: "status", hidden: true });
  const paint = () => {
    const text = state.worker ? `${state.worker.message} What was added goes on by itself.` : "";
    line.hidden = !text;
    line.textContent = text;
  };
  on("collections", paint);
  return line;
};

const views = () => {
  const made = { documents: documentsView(), document: documentView(), search: searchView(), gallery: galleryView() };
  const place = h("div", { class: "view" }, Object.values(made).map(v => v.node));
  let shown = "", chosen = null;
  const paint = () => {
    const view = where.view === "documents" && (where.job || where.document) ? "document" : where.view in made ? where.view : "documents";
    if (chosen !== null && chosen !== where.collection) loadDocuments().catch(() => {});
    chosen = where.collection;
    for (const [name, v] of Object.entries(made)) v.node.hidden = name !== view;
    if (shown !== view) { made[shown]?.leave?.(); shown = view; }
    made[view].show();
  };
  on("where", paint);
  return { node: place, paint };
};

const keys = event => {
  const typing = event.target.closest?.("input, textarea, select, [contenteditable], dialog");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    document.querySelector("#query").focus();
  }
};

const begin = column => {
  Object.assign(settings, JSON.parse(document.querySelector("meta[name=quire]").content));
  const place = h("div", { id: "quire" });
  column.append(place);
  const shown = views();
  const side = sidebar();
  put(place,
    h("a", { class: "skip", href: "#main", onclick: e => { e.preventDefault(); document.querySelector("#main").focus(); } }, "Skip to the documents"),
    side.node,
    h("main", { id: "main", tabindex: "-1" },
      h("div", { class: "top" }, iconButton("menu", "Collections", side.toggle, { class: "icon-button only-phone", "aria-controls": "side" }), questionBox()),
      banner(), header(), transfers(), shown.node));
  document.addEventListener("keydown", keys);
  shown.paint();
  follow();
  loadCollections().then(() => Promise.all([loadDocuments(), loadStatus()])).catch(problem => say(told(problem), "bad"));
  setInterval(() => document.visibilityState === "visible" && loadStatus().catch(() => {}), 30_000);
};

// Gradio makes the place for the page when it is ready.
const wait = () => {
  const column = document.querySelector("#place");
  if (!column) return false;
  begin(column);
  return true;
};
if (!wait()) {
  const watch = new MutationObserver(() => wait() && watch.disconnect());
  watch.observe(document.documentElement, { childList: true, subtree: true });
}
