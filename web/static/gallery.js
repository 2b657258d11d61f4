// Tables and figures of a collection: to look through, to copy, to take away.

import { at, get, told, url } from "./api.js";
import { button, csv, dialog, download, empty, h, number, put, say, table, tsv } from "./dom.js";
import { collectionId, go, on, state } from "./state.js";

const stem = item => `${item.filename.replace(/\.pdf$/i, "")}-page-${item.page}`;

const png = item => new Promise((done, failed) => {
  const image = new Image();
  image.onload = () => {
    const canvas = h("canvas", { width: String(image.naturalWidth), height: String(image.naturalHeight) });
    canvas.getContext("2d").drawImage(image, 0, 0);
    canvas.toBlob(blob => blob ? done(blob) : failed({ message: "The picture cannot be made." }), "image/png");
  };
  image.onerror = () => failed({ message: "The picture cannot be fetched.", advice: "Reload the page." });
  image.src = url(item.image_url);
});

const copy = async item => {
  try {
    if (item.table_html) await navigator.clipboard.writeText(tsv(item.table_html));
    else await navigator.clipboard.write([new ClipboardItem({ "image/png": png(item) })]);
    say("Copied.");
  } catch { say("The browser did not allow copying.", "bad"); }
};

// A long table is several records; its element has it whole.
const whole = async item => {
  const found = await get(`${at("sources", item.source_id, "elements")}?page=${item.page}`).catch(() => []);
  const element = found.find(e => item.image_url.endsWith(`/${e.metadata.image_path}`));
  return { ...item, table_html: element?.metadata.text_as_html || item.table_html, text: element?.text || item.text };
};

const open = async some => {
  const item = await whole(some);
  const node = dialog(item.caption || `${item.element_type === "Table" ? "Table" : "Figure"} on page ${item.page}`, [
    h("p", { class: "quiet", dir: "auto" }, `${item.filename}, page ${item.page}`),
    h("div", { class: "item" }, h("img", { src: url(item.image_url), alt: item.caption || item.element_type }), item.table_html ? table(item.table_html) : item.text ? h("p", { dir: "auto" }, item.text.slice(0, 2000)) : null),
    h("div", { class: "actions" },
      button("Copy", () => copy(item)),
      item.table_html ? button("CSV", () => download(`${stem(item)}.csv`, new Blob([csv(item.table_html)], { type: "text/csv" }))) : null,
      button("PNG", async () => { try { download(`${stem(item)}.png`, await png(item)); } catch (problem) { say(told(problem), "bad"); } }),
      button("Open at the page", () => { node.close(); go({ view: "documents", document: item.source_id, job: "", p: String(item.page) }); }, { class: "button primary" }))], { kind: "wide" });
  node.addEventListener("click", e => e.target === node && node.close());
};

export const galleryView = () => {
  let items = [], loaded = "", kind = "", text = "";
  const find = h("input", { type: "search", class: "field", placeholder: "Filter by words", "aria-label": "Filter tables and figures", oninput: () => { text = find.value.toLowerCase(); paint(); } });
  const kinds = h("div", { class: "chips", role: "group", "aria-label": "Kind" });
  const cards = h("ul", { class: "cards" });
  const none = h("div", {});
  const node = h("section", { class: "gallery", "aria-label": "Tables and figures" }, h("div", { class: "list-bar" }, kinds, h("div", { class: "list-find" }, find)), cards, none);
  const paint = () => {
    const count = k => items.filter(i => !k || i.element_type === k).length;
    put(kinds, [["", "All"], ["Table", "Tables"], ["Image", "Figures"]].map(([value, label]) => h("button", { type: "button", class: "chip", "aria-pressed": String(kind === value), onclick: () => { kind = value; paint(); } }, label, h("span", { class: "count" }, number(count(value))))));
    const shown = items.filter(i => (!kind || i.element_type === kind) && (!text || `${i.caption || ""} ${i.text} ${i.filename}`.toLowerCase().includes(text)));
    put(cards, shown.map(item => h("li", {}, h("button", { type: "button", class: "card", onclick: () => open(item) },
      h("span", { class: "card-picture" }, h("img", { loading: "lazy", alt: "", src: url(item.image_url) })),
      h("span", { class: "card-title", dir: "auto" }, (item.caption || item.text || (item.element_type === "Table" ? "Table" : "Figure")).slice(0, 90)),
      h("span", { class: "quiet" }, `${item.element_type === "Table" ? "Table" : "Figure"} · page ${item.page} · `, h("bdi", {}, item.filename))))));
    put(none, shown.length ? null : items.length ? empty("None fits", "Try another word or another kind.") : empty("No tables or figures yet", "They are collected here while documents are read, each with its picture; a table also as text to copy or to save as CSV."));
  };
  const load = async () => {
    const id = collectionId();
    try { items = await get(at("collections", id, "gallery")); } catch (problem) { items = []; if (problem.code !== "worker_unavailable") say(told(problem), "bad"); }
    loaded = id;
    paint();
  };
  on("collections", () => { if (!node.hidden && state.collections) load(); else loaded = ""; });
  return { node, show: () => { if (state.collections && loaded !== collectionId()) load(); } };
};
