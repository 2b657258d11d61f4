// One document: how its job goes, how each page was read, and each page beside what was found on it.

import { at, get, told, url } from "./api.js";
import { act, canRetry, filename, pill, removeDocument, sentence, status } from "./documents.js";
import { button, chosen, clock, empty, h, icon, iconButton, number, plural, put, say, span, table } from "./dom.js";
import { FINISHED, go, link, on, rowKey, state, where } from "./state.js";
import { sheet, silent, turner } from "./viewer.js";

const STAGES = [["probe", "Look at"], ["partition", "Read"], ["chunk", "Chunk"], ["embed", "Embed"], ["index", "Index"], ["save", "Save"]];
const READERS = { text: ["Text", "the text in the file"], ocr: ["OCR", "read from the picture"], hi_res: ["High res", "layout model"], reference: ["Stock", "stock library"], blank: ["Blank", "nothing on it"], failed: ["Failed", "not read"] };
const WAYS = [["auto", "automatically"], ["fast", "from its text"], ["ocr_only", "by OCR"], ["hi_res", "in high resolution"]];

const stages = job => h("ol", { class: "stages", "aria-label": "Stages" }, STAGES.map(([name, label]) => {
  const s = job.stages?.[name], part = s?.total ? s.done / s.total : 0, counted = s?.total && !["probe", "save"].includes(name);
  const at = part >= 1 ? "past" : s && !FINISHED.has(job.status) ? "now" : "";
  return h("li", { class: at, "data-stage": name }, h("span", { class: "stage-name" }, label, part >= 1 ? icon("check") : null),
    h("span", { class: "bar", role: "progressbar", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": String(Math.floor(100 * part)) }, h("i", { style: { width: `${Math.floor(100 * part)}%` } })),
    h("span", { class: "quiet" }, counted ? `${number(s.done)} / ${number(s.total)}` : part >= 1 ? "done" : ""));
}));

const facts = row => {
  const job = row.job;
  if (!job) return ["Restored or imported; no job of this Space read it."];
  const took = job.started_at && job.finished_at ? `took ${span(job.finished_at - job.started_at)}` : job.started_at ? `began ${clock(job.started_at)}` : "";
  return [
    took,
    job.strategy && job.strategy !== "auto" ? `strategy ${job.strategy}` : "",
    job.gpu_seconds ? `${span(job.gpu_seconds)} of GPU quota` : "",
    job.notified ? "told its owner" : "",
    job.saved_generation ? "saved" : FINISHED.has(job.status) ? "" : "not yet saved",
  ].filter(Boolean);
};

// Elements of unstructured as what they are.
const CLASSES = { Title: "h3", ListItem: "li", Header: "small", Footer: "small", CodeSnippet: "pre" };
const KIND = { NarrativeText: "Paragraph", UncategorizedText: "Text", ListItem: "List item", FigureCaption: "Caption", CodeSnippet: "Code", Image: "Figure", PageNumber: "Page number" };
const kind = e => KIND[e.type] || e.type;
const boxOf = e => {
  const c = e.metadata.coordinates;
  if (!c) return null;
  const xs = c.points.map(p => p[0]), ys = c.points.map(p => p[1]);
  return { x0: Math.min(...xs), x1: Math.max(...xs), y0: Math.min(...ys), y1: Math.max(...ys), w: c.layout_width, h: c.layout_height };
};
const rendered = e => {
  if (e.type === "Table" && e.metadata.text_as_html) return table(e.metadata.text_as_html);
  if (e.type === "Image" && e.metadata.image_path) return h("img", { class: "figure", loading: "lazy", alt: e.text || "Figure", src: url(at("figures", e.metadata.image_path)) });
  return h(CLASSES[e.type] === "li" ? "p" : CLASSES[e.type] || "p", { dir: "auto", class: CLASSES[e.type] === "li" ? "bullet" : "" }, e.text);
};

// Cancelling asks what becomes of the pages that were read.
const cancel = async job => {
  const choice = await chosen(`Cancel “${job.source.filename}”?`, ["It stops after the pages that are being read. A retry goes on from there."],
    [["keep", "Stop, keep what was read"], ["drop", "Stop, remove it"]], "Go on reading");
  if (choice) act(job, "cancel", { keep: choice === "keep" });
};

export const documentView = () => {
  const node = h("section", { class: "document", "aria-label": "Document" });
  const head = h("div", { class: "doc-head" }), progress = h("div", { class: "doc-progress" }), strip = h("div", { class: "doc-strip" });
  const log = h("details", { class: "log", ontoggle: () => log.open && loadLog() }, h("summary", {}, "Log", icon("down")));
  const lines = h("ol", { class: "log-lines" });
  log.append(lines);
  const tools = h("div", { class: "doc-tools" }), left = h("div", { class: "doc-page" }), right = h("div", { class: "doc-elements" });
  const split = h("div", { class: "doc-split" }, left, right);
  node.append(head, progress, strip, log, tools, split);

  let row = null, pages = [], number_ = 1, found = [], face = "read", shownPage = "", after = 0, loadedFor = "", readPages = -1, headShown = "";

  const current = () => {
    for (const r of state.documents.values()) if ((where.job && r.job?.id === where.job) || (where.document && rowKey(r) === where.document)) return r;
    return null;
  };
  const source = () => row.source?.id || row.job?.source.id;
  const total = () => row.source?.pages || row.job?.source.pages || pages.length;

  const paintHead = () => {
    const job = row.job, now = status(row), running = !FINISHED.has(now);
    const seen = JSON.stringify([rowKey(row), now, facts(row), row.source, job?.error]); // a button stays while only numbers change
    if (seen !== headShown || !head.childElementCount) put(head,
      iconButton("back", "Back to the documents", back),
      h("div", { class: "doc-name" }, h("h2", { dir: "auto" }, filename(row)), h("p", { class: "facts" }, pill(now), facts(row).join(" · "))),
      h("div", { class: "actions" },
        running ? button("Cancel…", () => cancel(job), { "data-act": "cancel" }) : null,
        canRetry(row) ? button("Retry", () => act(job, "retry"), { class: "button primary", icon: "retry", "data-act": "retry" }) : null,
        button("Copy link", async () => { await navigator.clipboard.writeText(new URL(link({}), location.href).href); say("The link is copied. It works for you, wherever you are signed in."); }, { icon: "link" }),
        row.source ? button("Delete…", async () => { if (await removeDocument([row])) back(); }, { class: "button danger-quiet", icon: "trash" }) : null));
    headShown = seen;
    const text = sentence(row);
    put(progress, text ? h("p", { class: `says ${job?.error ? "bad" : ""}`, dir: "auto" }, text, job?.error ? h("code", {}, job.error.code) : null) : null,
      job && now !== "succeeded" ? stages(job) : null);
  };

  const reread = async (list, strategy) => {
    const next = await act(row.job, "retry", { pages: list, strategy });
    if (next) say(`${plural(list.length, "page")} will be read again; the records are replaced when it is done.`);
  };

  const paintStrip = () => {
    const counts = {};
    const by = new Map(pages.map(p => [p.page, p]));
    const kind = p => p?.error ? "failed" : p?.reader || "todo";
    for (let n = 1; n <= total(); n += 1) counts[kind(by.get(n))] = (counts[kind(by.get(n))] || 0) + 1;
    if (!total()) return put(strip);
    const cells = h("div", { class: "cells", role: "group", "aria-label": "Pages and how they were read", onkeydown: move });
    for (let n = 1; n <= total(); n += 1) {
      const p = by.get(n), k = kind(p);
      const about = p ? `Page ${n}: ${READERS[k]?.[0] || k}, ${p.reason || READERS[k]?.[1]}, ${p.seconds.toFixed(2)} s` : `Page ${n}: not read yet`;
      cells.append(h("button", { type: "button", class: `cell ${k}`, title: about, "aria-label": about, "aria-current": n === number_ ? "true" : null, tabindex: n === number_ ? "0" : "-1", "data-page": String(n), onclick: () => turn(n) }));
    }
    const failed = pages.filter(p => p.error).map(p => p.page);
    put(strip, cells, h("p", { class: "legend" }, Object.entries(counts).map(([k, n]) => h("span", {}, h("i", { class: `cell ${k}` }), `${number(n)} ${k === "todo" ? "to come" : (READERS[k]?.[0] || k).toLowerCase()}`)),
      failed.length && row.job && FINISHED.has(status(row)) ? button(`Read the failed ${failed.length === 1 ? "page" : "pages"} by OCR`, () => reread(failed, "ocr_only"), { icon: "retry" }) : null));
  };
  const move = e => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -1e6, End: 1e6 }[e.key];
    if (!step) return;
    e.preventDefault();
    e.stopPropagation();
    turn(Math.max(1, Math.min(total(), number_ + step)));
    strip.querySelector(`[data-page="${number_}"]`)?.focus();
  };

  const paintTools = () => {
    const record = pages.find(p => p.page === number_);
    const faces = [["read", "Read"], ["markdown", "Markdown"], ["json", "JSON"]];
    const way = h("select", { class: "field", "aria-label": "How to read this page again" }, WAYS.map(([v, t]) => h("option", { value: v }, t)));
    put(tools, turner(number_, total(), turn),
      h("span", { class: "quiet grow", dir: "auto" }, record ? `${READERS[record.error ? "failed" : record.reader]?.[0] || record.reader}: ${record.reason || "as asked"} · ${plural(record.elements, "element")} in ${record.seconds.toFixed(2)} s` : ""),
      row.job && FINISHED.has(status(row)) && source() && record ? h("span", { class: "again" }, h("span", { class: "quiet" }, "Read it again"), way, button("Go", () => reread([number_], way.value), { "aria-label": "Read this page again" })) : null,
      h("div", { class: "segments", role: "group", "aria-label": "Show what was found as" }, faces.map(([name, label]) => h("button", { type: "button", "aria-pressed": String(face === name), onclick: () => { face = name; paintTools(); paintElements(); } }, label))));
  };

  const light = (index, from) => {
    for (const e of node.querySelectorAll("[data-element].lit")) e.classList.remove("lit");
    for (const e of node.querySelectorAll(`[data-element="${index}"]`)) {
      e.classList.add("lit");
      if (e.closest(".doc-elements") && from === "page") e.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
      if (e.closest(".doc-page") && from === "list") e.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    }
  };
  // As the export writes it, which escapes what a document says.
  const paintMarkdown = async () => {
    const wanted = shownPage;
    let said = "";
    try { said = await get(`${at("sources", source(), "markdown")}?page=${number_}`); } catch (problem) { say(told(problem), "bad"); }
    if (shownPage === wanted && face === "markdown") put(right, h("pre", { class: "code", tabindex: "0", dir: "auto" }, said));
  };
  const paintElements = () => {
    const record = pages.find(p => p.page === number_);
    if (face === "json") return put(right, h("pre", { class: "code", tabindex: "0" }, JSON.stringify(found, null, 1)));
    if (face === "markdown") return paintMarkdown();
    put(right, found.length ? found.map((e, i) => h("div", { class: "element", "data-element": String(i), onclick: () => light(i, "list") },
      h("button", { type: "button", class: "kind", "aria-label": `${kind(e)}: show its place on the page`, title: e.type, onclick: () => light(i, "list") }, kind(e)), rendered(e)))
      : record?.error ? empty("This page was not read", `${record.error.message} ${record.error.advice || ""}`, "Choose another way above and press Go.")
        : record ? empty("Nothing was found on this page", record.reason) : empty("Not read yet", "What is on this page shows here as soon as it is read."));
  };
  const paintPage = async () => {
    const wanted = `${source()}/${number_}/${readPages}`;
    if (shownPage === wanted) return;
    shownPage = wanted;
    paintTools();
    if (!source() || !total()) { put(left); put(right); return; }
    put(left, sheet(source(), number_));
    put(right, h("p", { class: "quiet" }, "…"));
    try { found = await get(`${at("sources", source(), "elements")}?page=${number_}`); } catch { found = []; }
    if (shownPage !== wanted) return;
    put(left, sheet(source(), number_, found.map((e, i) => { const b = boxOf(e); return b && silent(b, { title: kind(e), "data-element": String(i), class: `place faint ${e.type}`, onclick: () => light(i, "page") }); })));
    paintElements();
  };
  const turn = n => { number_ = n; go({ p: n > 1 ? String(n) : "" }, { replace: true }); };

  const loadLedger = async () => {
    if (!source()) return;
    try { pages = await get(at("sources", source(), "pages")); } catch { pages = []; }
    readPages = pages.length;
  };
  const loadLog = async () => {
    if (!row?.job) return put(lines, h("li", {}, "No job, no log."));
    try {
      const told_ = await get(`${at("jobs", row.job.id, "log")}?after=${after}`);
      for (const e of told_.events) {
        after = e.seq;
        lines.append(h("li", { class: e.error || e.reason ? "bad" : "" }, h("time", {}, clock(e.time)), h("b", {}, e.stage), h("span", { dir: "auto" }, e.message)));
      }
    } catch (problem) { say(told(problem), "bad"); }
  };

  const back = () => go({ job: "", document: "", p: "" });
  const show = async () => {
    row = current();
    if (!row) {
      loadedFor = headShown = "";
      for (const part of [progress, strip, tools, left, right]) put(part);
      log.hidden = true;
      put(head, nobody === where.job && nobody ? empty("There is no such job", "It is somebody else's, or it was deleted.", button("Back to the documents", back)) : where.job && !state.documents.size ? h("p", { class: "quiet" }, "…") : empty("Not here", "This document is not in this collection any more.", button("Back to the documents", back)));
      if (where.job && state.collections) find();
      return;
    }
    log.hidden = false;
    number_ = Math.max(1, Number(where.p) || 1);
    paintHead();
    const key = `${rowKey(row)}/${row.job?.id}`;
    if (loadedFor !== key) { loadedFor = key; after = 0; put(lines); shownPage = ""; pages = []; }
    const job = row.job, indexed = job?.stages?.partition?.done || 0;
    if (!pages.length || (job && !FINISHED.has(job.status) && indexed !== readPages)) await loadLedger();
    if (!row) return;
    paintStrip();
    await paintPage();
    if (log.open) await loadLog();
  };
  // A link to a job of another collection.
  let looked = "", nobody = "";
  const find = async () => {
    if (looked === where.job) return;
    looked = where.job;
    try {
      const job = await get(at("jobs", where.job));
      if (job.collection !== state.loaded) go({ collection: job.collection }, { replace: true });
    } catch (problem) { if (problem.code === "job_not_found") { nobody = where.job; show(); } }
  };
  let before = "";
  on("row", key => {
    if (node.hidden || !row || rowKey(row) !== key) return;
    const now = state.documents.get(key)?.job?.status;
    if (before && before !== now && FINISHED.has(now)) { pages = []; shownPage = ""; }
    before = now;
    show();
  });
  on("documents", () => !node.hidden && show());
  node.addEventListener("keydown", e => {
    if (e.target.closest("input, select, textarea")) return;
    if (e.key === "Escape") { e.preventDefault(); back(); document.querySelector(".row-main")?.focus(); }
    if (e.key === "ArrowRight" && number_ < total()) turn(number_ + 1);
    if (e.key === "ArrowLeft" && number_ > 1) turn(number_ - 1);
  });
  node.tabIndex = -1;
  return { node, show };
};
