// One box, its filters, and hits beside the page they stand on.

import { at, post, url } from "./api.js";
import { button, empty, h, icon, marked, number, plural, put, table, words } from "./dom.js";
import { collection, collectionId, go, on, state, where } from "./state.js";
import { placed, sheet, thumbnail, turner } from "./viewer.js";

export const questionBox = () => {
  const field = h("input", { id: "query", type: "search", placeholder: "Ask your documents", "aria-label": "Ask your documents", autocomplete: "off", enterkeyhint: "search", dir: "auto" });
  const form = h("form", { class: "question", role: "search", onsubmit: e => { e.preventDefault(); go({ view: "search", q: field.value, job: "", document: "", p: "" }); } },
    icon("search"), field, h("kbd", { "aria-hidden": "true" }, "/"), h("button", { class: "button primary", type: "submit" }, "Search"));
  on("where", () => { if (document.activeElement !== field) field.value = where.q; });
  field.value = where.q;
  field.addEventListener("keydown", e => {
    if (e.key === "ArrowDown") { const first = document.querySelector(".hit"); if (first) { e.preventDefault(); first.focus(); } }
    if (e.key === "Escape") field.blur();
  });
  return form;
};

// Another filter asks what stands in the box now.
const filter = changes => go({ ...changes, q: document.querySelector("#query").value });

const segments = (label, name, choices) => h("div", { class: "segments", role: "group", "aria-label": label }, choices.map(([value, text, hint]) =>
  h("button", { type: "button", title: hint || null, "data-value": value, "data-of": name, onclick: () => filter({ [name]: value }) }, text)));

// How a hit was found, in words.
const explained = hit => {
  const parts = [];
  if (hit.rank?.dense) parts.push(`#${hit.rank.dense} by meaning`);
  if (hit.rank?.keyword) parts.push(`#${hit.rank.keyword} by words`);
  return parts.join(", ");
};
const why = "Half for its meaning, half for its words, each as a share of the best one found.";

const hitNode = (hit, i, asked, best, choose) => h("li", {}, h("div", { class: "hit", tabindex: i ? "-1" : "0", role: "button", "data-i": String(i), "aria-label": `${hit.filename}, page ${hit.page}: open at the page`, onclick: () => choose(i, true) },
  thumbnail(hit.source_id, hit.page, hit.boxes),
  h("div", { class: "hit-body" },
    h("div", { class: "hit-head" }, h("b", { dir: "auto" }, hit.filename), h("span", {}, `page ${hit.page}`), hit.element_type !== "Text" ? h("span", { class: "kind" }, hit.element_type === "Image" ? "Figure" : hit.element_type) : null),
    hit.section_titles?.length ? h("div", { class: "quiet section", dir: "auto" }, hit.section_titles[0]) : null,
    hit.caption && hit.element_type !== "Text" ? h("p", { dir: "auto" }, marked(hit.caption, asked)) : null,
    hit.table_html ? table(hit.table_html, `Table on page ${hit.page}`, asked)
      : hit.element_type === "Image" && hit.image_url ? h("img", { class: "figure", loading: "lazy", alt: hit.caption || "Figure", src: url(hit.image_url) })
        : h("p", { class: "text", dir: "auto" }, marked(hit.text.slice(0, 700), asked), hit.text.length > 700 ? "…" : ""),
    hit.more.length ? h("p", { class: "quiet", dir: "auto" }, `Also on this page: ${hit.more.map(m => m.text.slice(0, 100)).join(" … ")}`) : null,
    h("div", { class: "score quiet", title: why }, h("span", { class: "meter", "aria-hidden": "true" }, h("i", { style: { width: `${Math.round(100 * hit.score / best)}%` } })), `${explained(hit)} · score ${hit.score.toFixed(4)}`))));

export const searchView = () => {
  const source = h("select", { class: "field", "aria-label": "Only in this document", onchange: () => filter({ source: source.value }) });
  const first = h("input", { class: "field page-number", type: "number", min: "1", "aria-label": "From page", placeholder: "from", onchange: () => filter({ first: first.value }) });
  const last = h("input", { class: "field page-number", type: "number", min: "1", "aria-label": "To page", placeholder: "to", onchange: () => filter({ last: last.value }) });
  const bar = h("div", { class: "filters" },
    segments("Mode", "mode", [["", "Both", "By meaning and by words"], ["dense", "Meaning", "By the meaning of the question"], ["keyword", "Words", "By the words themselves"]]),
    segments("Kind", "kind", [["", "Everything"], ["Text", "Text"], ["Table", "Tables"], ["Image", "Figures"]]),
    source, h("span", { class: "range" }, "Pages ", first, "–", last));
  const count = h("p", { class: "quiet found", role: "status" });
  const list = h("ol", { class: "hits" });
  const place = h("div", { class: "preview", id: "preview", tabindex: "-1", role: "region", "aria-label": "The page of the chosen hit" });
  const node = h("section", { class: "search", "aria-label": "Search" }, bar, count, h("div", { class: "search-split" }, list, place));
  let done = "", hits = [], asked = [], turn = 0;

  const preview = (hit, number_, scroll) => {
    const marks = hit.boxes.filter(b => b.page === number_).map(b => placed(b, "The place of the hit"));
    put(place, h("div", { class: "preview-head" }, turner(number_, state.documents.get(hit.source_id)?.source?.pages, n => preview(hit, n)),
      button("Open the document", () => go({ view: "documents", document: hit.source_id, job: "", p: String(number_) }), { class: "button plain" })),
      sheet(hit.source_id, number_, marks));
    if (scroll && matchMedia("(max-width: 899px)").matches) place.scrollIntoView({ block: "start" });
  };
  const choose = (i, scroll) => {
    list.querySelectorAll(".hit").forEach(e => { e.tabIndex = Number(e.dataset.i) === i ? 0 : -1; e.toggleAttribute("aria-current", Number(e.dataset.i) === i); });
    preview(hits[i], hits[i].page, scroll);
  };
  list.addEventListener("keydown", e => {
    const i = Number(e.target.dataset.i);
    if (!e.target.matches(".hit")) return;
    const next = { ArrowDown: i + 1, ArrowUp: i - 1, Home: 0, End: hits.length - 1 }[e.key];
    if (next !== undefined) {
      e.preventDefault();
      if (next < 0) return document.querySelector("#query").focus();
      const to = list.querySelector(`.hit[data-i="${next}"]`);
      if (to) { to.focus(); choose(next, false); }
    } else if (e.key === "Enter" || e.key === " ") { e.preventDefault(); choose(i, true); place.focus(); }
    else if (e.key === "Escape") document.querySelector("#query").focus();
  });
  place.addEventListener("keydown", e => e.key === "Escape" && list.querySelector(".hit[aria-current]")?.focus());

  const paintFilters = () => {
    for (const b of bar.querySelectorAll("[data-of]")) b.setAttribute("aria-pressed", String((where[b.dataset.of] || "") === b.dataset.value));
    const held = [...state.documents.values()].filter(r => r.source);
    put(source, h("option", { value: "" }, "All documents"), held.map(r => h("option", { value: r.source.id }, r.source.filename.slice(0, 80))));
    source.value = where.source;
    first.value = where.first;
    last.value = where.last;
  };
  const teach = () => {
    put(list);
    put(count);
    put(place, collection()?.records === 0 || !collection() ? empty("Nothing to ask yet", "Add a document first; its pages can be found as soon as they are read.")
      : empty("Ask in your own words", "A question finds what means the same; a few exact words find those words. Press / to come back to the box, ↓ to walk through the hits."));
  };
  const ask = async () => {
    if (!where.q.trim()) { turn += 1; done = ""; hits = []; return teach(); }
    const now = JSON.stringify([collectionId(), where.q, where.mode, where.kind, where.source, where.first, where.last]);
    if (done === now) return;
    done = now;
    const mine = turn += 1, began = performance.now();
    list.setAttribute("aria-busy", "true");
    try {
      const found = await post(at("collections", collectionId(), "search"), {
        query: where.q, top_k: 20, mode: where.mode || "hybrid",
        where: { source_id: where.source || null, element_type: where.kind || null, pages: [Number(where.first) || null, Number(where.last) || null] },
      });
      if (mine !== turn) return;
      hits = found;
      asked = words(where.q);
      count.textContent = hits.length ? `${plural(hits.length, "hit")} in ${Math.round(performance.now() - began)} ms` : "";
      put(list, hits.map((hit, i) => hitNode(hit, i, asked, hits[0].score, choose)));
      if (hits.length) choose(0, false);
      else put(place, empty("Nothing found", where.kind || where.source || where.first || where.last ? "Remove a filter, or try other words." : "Try other words, or another mode."));
    } catch (problem) {
      if (mine !== turn) return;
      done = "";
      hits = [];
      put(list);
      put(count);
      put(place, h("div", { class: "empty bad", role: "alert" }, h("h2", {}, problem.message), h("p", {}, problem.advice, " ", h("code", {}, problem.code))));
    } finally { list.removeAttribute("aria-busy"); }
  };
  on("documents", paintFilters);
  on("collections", () => !node.hidden && state.collections && ask());
  return { node, show: () => { paintFilters(); if (state.collections) ask(); } };
};
