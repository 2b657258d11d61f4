// The documents of a collection: a row per file from the moment it is chosen.

import { again, dropZone, passing, sending, stop } from "./add.js";
import { at, post, remove, told } from "./api.js";
import { button, confirmed, empty, h, iconButton, megabytes, number, plural, put, say, span, when } from "./dom.js";
import { collection, collectionId, FINISHED, go, loadDocuments, on, refresh, rowKey, state, where } from "./state.js";

export const LABEL = { sending: "uploading", queued: "waiting", running: "reading", waiting: "on hold", succeeded: "done", partial: "partial", failed: "failed", cancelled: "cancelled" };
const GROUPS = [["all", "All"], ["active", "In progress"], ["succeeded", "Done"], ["partial", "Partial"], ["failed", "Failed"], ["cancelled", "Cancelled"]];
const SHOWN = 200;

export const status = row => row.job ? row.job.status : "succeeded";
const group = row => FINISHED.has(status(row)) ? status(row) : "active";
export const filename = row => row.source?.filename || row.job.source.filename;
const pages = row => row.source?.pages || row.job?.source.pages;

export const pill = name => h("span", { class: `pill ${name}`, "data-status": name }, LABEL[name] || name);

const stageOf = (job, name) => job.stages?.[name];
export const share = job => {
  const total = job.source.pages || 0;
  if (!total) return 0;
  return Math.min(1, ((stageOf(job, "partition")?.done || 0) + (stageOf(job, "index")?.done || 0)) / (2 * total));
};

// What a row says: where the work is, or what came of it and what to do.
export const sentence = row => {
  const job = row.job;
  if (!job) return "";
  if (job.error) return `${job.error.message} ${job.error.advice || ""}`.trim();
  if (job.status === "queued") return `${job.waits_for || (job.position > 1 ? `${plural(job.position - 1, "job")} ahead of it.` : "Next in turn.")}${job.eta_seconds ? ` Done in about ${span(job.eta_seconds)}.` : ""}`;
  const left = job.eta_seconds ? ` · about ${span(job.eta_seconds)} left` : "";
  if (job.status === "waiting") return job.waits_for || job.message || "";
  if (job.status === "running") {
    const read = stageOf(job, "partition")?.done || 0, ready = stageOf(job, "index")?.done || 0, total = job.source.pages;
    if (!total) return job.message || "Looking at the file.";
    if (ready >= total) return "Saving";
    return `${number(read)} of ${plural(total, "page")} read${ready ? `, searchable up to page ${number(ready)}` : ""}${left}`;
  }
  if (job.status === "partial") return `${plural(job.pages_failed.length, "page")} could not be read: ${job.pages_failed.slice(0, 8).join(", ")}${job.pages_failed.length > 8 ? "…" : ""}. Open it to see why and to try another way.`;
  if (job.status === "cancelled") return job.message || "Stopped.";
  return "";
};

const order = async (job, verb, body) => {
  try { return await post(at("jobs", job.id, verb), body); } catch (problem) { say(told(problem), "bad"); }
};
const shownAgain = () => loadDocuments().catch(problem => say(told(problem), "bad"));

export const act = async (job, verb, body = {}) => {
  const next = await order(job, verb, body);
  if (next) await shownAgain();
  return next;
};

export const removeDocument = async rows => {
  const held = rows.filter(r => r.source);
  if (!held.length) { say("Nothing of these is in the collection yet; cancel them instead."); return false; }
  const named = held.length === 1 ? `“${filename(held[0])}”` : plural(held.length, "document");
  const sure = await confirmed(`Delete ${named}?`, [
    `${plural(held.reduce((n, r) => n + (r.source.pages || 0), 0), "page")} with their records and pictures go from this collection, here and in the next save.`,
    "This cannot be undone.",
  ], "Delete");
  if (!sure) return false;
  let records = 0, bytes = 0;
  try {
    for (const row of held) {
      const receipt = await remove(at("collections", collectionId(), "documents", row.source.id));
      records += receipt.records; bytes += receipt.bytes;
    }
    say(`Deleted ${named}: ${plural(records, "record")}, ${megabytes(bytes)} freed. It is in the next save.`, "good");
  } catch (problem) { say(told(problem), "bad"); }
  await refresh();
  return true;
};

// What would fail again the same way needs another file, not another try.
const HOPELESS = new Set(["not_a_pdf", "damaged_pdf", "empty_file", "no_pages", "too_many_pages", "file_too_large"]);
const canDismiss = row => row.job && !row.source && ["failed", "cancelled"].includes(row.job.status);
export const canRetry = row => row.job && ["failed", "partial", "cancelled"].includes(row.job.status) && row.job.source.id && !HOPELESS.has(row.job.error?.code);

const rowNode = (row, chosen, pick) => {
  const key = rowKey(row), job = row.job, name = filename(row), now = status(row), running = !FINISHED.has(now);
  return h("li", { class: "row", "data-key": key, "data-job": job?.id, "data-status": now },
    h("input", { type: "checkbox", class: "tick", "aria-label": `Select ${name}`, checked: chosen.has(key), onchange: e => pick(key, e.target.checked) }),
    h("button", { type: "button", class: "row-main", onclick: () => go(job ? { job: job.id, document: "", p: "" } : { document: row.source.id, job: "", p: "" }) },
      h("span", { class: "name", dir: "auto" }, name),
      sentence(row) ? h("span", { class: `says ${job?.error ? "bad" : ""}`, dir: "auto" }, sentence(row)) : null,
      running && job.source.pages ? h("span", { class: "bar", role: "progressbar", "aria-label": `Progress of ${name}`, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": String(Math.floor(100 * share(job))) },
        h("i", { style: { width: `${Math.floor(100 * share(job))}%` } })) : null),
    pill(now),
    h("span", { class: "num" }, pages(row) ? plural(pages(row), "page") : ""),
    h("span", { class: "num size" }, row.source ? megabytes(row.source.bytes) : ""),
    h("span", { class: "num at" }, when(row.source?.created_at || job.created_at)),
    h("span", { class: "row-act" },
      running ? iconButton("close", `Cancel ${name}`, () => act(job, "cancel"), { "data-act": "cancel" })
        : canRetry(row) ? iconButton("retry", `Retry ${name}`, () => act(job, "retry"), { "data-act": "retry" })
          : canDismiss(row) ? iconButton("close", `Take ${name} off the list`, () => act(job, "dismiss"), { "data-act": "dismiss" })
          : row.source ? iconButton("trash", `Delete ${name}`, () => removeDocument([row]), { "data-act": "delete" }) : null));
};

const sendingStatus = one => one.problem && !passing(one) ? "failed" : "sending";
const sendingNode = one => h("li", { class: "row", "data-status": sendingStatus(one) }, h("span", { class: "tick" }),
  h("div", { class: "row-main" }, h("span", { class: "name", dir: "auto" }, one.name),
    h("span", { class: `says ${one.problem ? "bad" : ""}` }, one.problem ? told(one.problem) : one.share === null ? "Waits to be uploaded" : one.share < 1 ? `${Math.floor(100 * one.share)} % uploaded; keep this tab open until it is` : "Being checked"),
    one.share !== null && !one.problem ? h("span", { class: "bar" }, h("i", { style: { width: `${Math.floor(100 * one.share)}%` } })) : null),
  pill(sendingStatus(one)), h("span", { class: "num" }), h("span", { class: "num size" }, megabytes(one.size)), h("span", { class: "num at" }),
  h("span", { class: "row-act" },
    one.problem && !["not_a_pdf", "file_too_large", "empty_file"].includes(one.problem.code) ? iconButton("retry", `Upload ${one.name} again`, () => again(one)) : null,
    iconButton("close", `Leave out ${one.name}`, () => stop(one))));

const STEPS = [
  ["Add", "Drop PDFs: reports, scans, books. Each becomes a job that goes on when this tab is closed."],
  ["Watch, or leave", "Pages can be searched as they are read. Come back from any browser, or be told by mail."],
  ["Ask", "Answers come with the page, the place on it, and tables and figures as they are."],
];

export const documentsView = () => {
  const chosen = new Set();
  let tab = "all", text = "", sort = "new", most = SHOWN;
  const zone = dropZone();
  const list = h("ul", { class: "rows", "aria-label": "Documents" });
  const tabs = h("div", { class: "chips", role: "group", "aria-label": "Documents by status" });
  const bulk = h("div", { class: "bulk" });
  const find = h("input", { type: "search", class: "field", placeholder: "Filter by name", "aria-label": "Filter documents by name", oninput: () => { text = find.value.toLowerCase(); most = SHOWN; paint(); } });
  const order = h("select", { class: "field", "aria-label": "Order", onchange: () => { sort = order.value; paint(); } },
    [["new", "Newest first"], ["name", "By name"], ["pages", "Most pages"]].map(([v, t]) => h("option", { value: v }, t)));
  const all = h("input", { type: "checkbox", class: "tick", "aria-label": "Select all that are shown", onchange: () => { const rows = visible(); all.checked ? rows.forEach(r => chosen.add(rowKey(r))) : chosen.clear(); paint(); } });
  const bar = h("div", { class: "list-bar" }, all, tabs, h("div", { class: "list-find" }, find, order));
  const more = h("div", { class: "more-rows" });
  const none = h("div", {});
  const node = h("section", { "aria-label": "Documents" }, zone.node, bar, bulk, list, more, none);

  const rows = () => [...state.documents.values()];
  const visible = () => {
    const found = rows().filter(r => (tab === "all" || group(r) === tab) && (!text || filename(r).toLowerCase().includes(text)));
    if (sort === "name") found.sort((a, b) => filename(a).localeCompare(filename(b)));
    if (sort === "pages") found.sort((a, b) => (pages(b) || 0) - (pages(a) || 0));
    return found;
  };
  const pick = (key, on) => { on ? chosen.add(key) : chosen.delete(key); paintBulk(); };
  const paintBulk = () => {
    const held = rows().filter(r => chosen.has(rowKey(r)));
    const failed = rows().filter(r => ["failed", "partial"].includes(status(r)) && canRetry(r));
    const each = async (some, verb) => { for (const r of some) await order(r.job, verb, {}); await shownAgain(); chosen.clear(); paint(); };
    all.checked = held.length > 0 && held.length === visible().length;
    all.indeterminate = held.length > 0 && !all.checked;
    put(bulk, held.length ? [h("span", {}, `${number(held.length)} selected`),
      held.some(canRetry) && button("Retry", () => each(held.filter(canRetry), "retry"), { icon: "retry" }),
      held.some(r => r.job && !FINISHED.has(status(r))) && button("Cancel", () => each(held.filter(r => r.job && !FINISHED.has(status(r))), "cancel")),
      held.some(canDismiss) && button("Take off the list", () => each(held.filter(canDismiss), "dismiss")),
      held.some(r => r.source) && button("Delete…", async () => { if (await removeDocument(held)) { chosen.clear(); paint(); } }, { class: "button danger-quiet", icon: "trash" }),
      button("Select none", () => { chosen.clear(); paint(); }, { class: "button plain" })]
      : failed.length > 1 ? button(`Retry all ${failed.length} that failed`, () => each(failed, "retry"), { icon: "retry" }) : null);
  };
  const paintTabs = () => {
    const counts = { all: state.documents.size };
    rows().forEach(r => { counts[group(r)] = (counts[group(r)] || 0) + 1; });
    if (tab !== "all" && !counts[tab]) tab = "all";
    put(tabs, GROUPS.filter(([name]) => name === "all" || counts[name]).map(([name, label]) =>
      h("button", { type: "button", class: "chip", "data-group": name, "aria-pressed": String(tab === name), onclick: () => { tab = name; most = SHOWN; paint(); } }, label, h("span", { class: "count" }, number(counts[name] || 0)))));
  };
  const keepFocus = change => {
    const held = document.activeElement, key = held?.closest?.(".row")?.dataset.key, selector = held?.className ? `.${[...held.classList].join(".")}` : "";
    change();
    if (key && !document.contains(held)) list.querySelector(`.row[data-key="${CSS.escape(key)}"] ${selector}`)?.focus();
  };
  const paint = () => {
    const loading = state.loaded !== collectionId(), found = loading ? [] : visible();
    const uploads = sending.filter(s => s.collection === collectionId() || s.collection === collection()?.title);
    const bare = !loading && !state.documents.size && !uploads.length;
    const lost = where.collection && state.collections && !collection();
    zone.node.hidden = Boolean(lost) || state.collections === null; // where to is not known before
    if (lost) {
      for (const part of [list, more, bulk]) put(part);
      bar.hidden = true;
      return put(none, empty("There is no such collection", "It was renamed or deleted, or it is somebody else's.", button("See yours", () => go({ collection: "" }))));
    }
    zone.lead(bare ? "Drop PDFs or whole folders here" : "Drop more here");
    zone.node.classList.toggle("large", bare);
    bar.hidden = bare || loading;
    paintTabs();
    keepFocus(() => put(list, uploads.map(sendingNode), found.slice(0, most).map(r => rowNode(r, chosen, pick))));
    put(more, found.length > most ? button(`Show ${number(Math.min(SHOWN, found.length - most))} more of ${number(found.length)}`, () => { most += SHOWN; paint(); }) : null);
    put(none, bare ? h("ol", { class: "steps" }, STEPS.map(([title, line]) => h("li", {}, h("h2", {}, title), h("p", {}, line))))
      : !loading && !found.length && !uploads.length ? empty("No document fits", "Try another name or another status.") : null);
    paintBulk();
  };
  const paintRow = key => {
    const row = state.documents.get(key), old = list.querySelector(`.row[data-key="${CSS.escape(key)}"]`);
    if (!old || !row || group(row) !== (FINISHED.has(old.dataset.status) ? old.dataset.status : "active")) return paint();
    keepFocus(() => old.replaceWith(rowNode(row, chosen, pick)));
  };
  let due = false; // many files on their way would paint the list many times a frame
  const paintSoon = () => { if (!due) { due = true; requestAnimationFrame(() => { due = false; paint(); }); } };
  on("documents", paint);
  on("collections", paint);
  on("sending", paintSoon);
  on("row", paintRow);
  return { node, show: paint };
};
