// What the page knows: where it is (the address), the collections, the documents of the chosen one.
// Views subscribe; nothing is kept that the server would not tell again.

import { at, get } from "./api.js";

export const settings = {};
export const state = { collections: null, worker: null, documents: new Map(), transfers: new Map(), loaded: "", status: null, connected: false };
const listeners = new Map();
export const on = (what, act) => listeners.set(what, [...(listeners.get(what) || []), act]);

// While a pointer is down, news waits: a button that is painted anew then would never be clicked.
let waiting = null, longest = 0;
const tellNow = ([what, detail]) => (listeners.get(what) || []).forEach(act => act(detail));
export const emit = (what, detail) => waiting ? waiting.push([what, detail]) : tellNow([what, detail]);
const letGo = () => { const told = waiting || []; waiting = null; clearTimeout(longest); told.forEach(tellNow); };
window.addEventListener("pointerdown", () => { waiting ||= []; clearTimeout(longest); longest = setTimeout(letGo, 1000); }, true);
for (const end of ["pointerup", "pointercancel"]) window.addEventListener(end, () => setTimeout(letGo), true); // after its click

const KEPT = ["collection", "view", "q", "mode", "kind", "source", "first", "last", "job", "document", "p"]; // p: a page's number
export const where = Object.fromEntries(KEPT.map(k => [k, ""]));

const read = () => {
  const given = new URLSearchParams(location.search);
  for (const k of KEPT) where[k] = given.get(k) || "";
  if (!where.view) where.view = where.q ? "search" : "documents";
};
read();

export const link = (changes = {}) => {
  const whole = new URLSearchParams(location.search);
  for (const k of KEPT) whole.delete(k);
  for (const [k, v] of Object.entries({ ...where, ...changes })) if (v && !(k === "view" && v === "documents")) whole.set(k, v);
  const query = whole.toString();
  return location.pathname + (query ? `?${query}` : "");
};

export const go = (changes, { replace = false } = {}) => {
  const target = link(changes);
  Object.assign(where, changes);
  history[replace ? "replaceState" : "pushState"](null, "", target);
  emit("where");
};
window.addEventListener("popstate", () => { read(); emit("where"); });

export const rowKey = row => row.source?.id || row.job.source.sha256 || row.job.id;
export const collection = () => (state.collections || []).find(c => c.id === where.collection || c.title === where.collection)
  || (where.collection ? null : (state.collections || [])[0]) || null;
export const collectionId = () => collection()?.id || (state.collections === null && where.collection) || "default";

let turn = 0, recount = 0, asked = "";
export const loadCollections = async () => {
  const found = await get("/collections");
  const missing = found.worker || found.collections.some(c => c.records === null);
  const known = new Map((state.collections || []).map(c => [c.id, c.records]));
  for (const c of found.collections) c.records ??= known.get(c.id) ?? null; // as last known
  if (found.collections.length || !found.worker) state.collections = found.collections; // else not known yet
  state.worker = found.worker;
  emit("collections");
  if (asked && asked !== collectionId()) loadDocuments().catch(() => {}); // it has been made, or is known by its id now
  clearTimeout(recount);
  if (missing) recount = setTimeout(() => loadCollections().catch(() => {}), 1500);
};

export const loadDocuments = async () => {
  const mine = turn += 1, id = asked = collectionId();
  if (where.collection && !collection()) return;
  const rows = await get(at("collections", id, "documents"));
  if (mine !== turn || id !== collectionId()) return;
  state.documents = new Map(rows.map(row => [rowKey(row), row]));
  state.loaded = id;
  emit("documents");
};

export const loadStatus = async () => { state.status = await get("/status"); emit("status"); };

let soon = 0;
const refreshSoon = () => { clearTimeout(soon); soon = setTimeout(() => refresh(), 400); };
export const refresh = () => Promise.all([loadCollections(), loadDocuments(), loadStatus()]).catch(() => {});

// Jobs as the stream tells them: those of this collection become or change rows.
export const FINISHED = new Set(["succeeded", "partial", "failed", "cancelled"]);
const seen = new Map();
export const tell = jobs => {
  let counts = false;
  for (const job of jobs) {
    const before = seen.get(job.id);
    seen.set(job.id, job.status);
    if (before !== job.status) counts = true;
    if (job.kind !== "ingest") {
      if (job.dismissed) state.transfers.delete(job.id); else state.transfers.set(job.id, job);
      emit("transfers");
      continue;
    }
    if (job.collection !== state.loaded) continue;
    const key = job.source.sha256 || job.id;
    const row = state.documents.get(key);
    if (row?.job && row.job.id !== job.id && row.job.created_at > job.created_at) continue;
    if (job.dismissed) continue;
    const next = { job, source: row?.source || null };
    if (row) state.documents.set(key, next);
    else state.documents = new Map([[key, next], ...state.documents]);
    emit("row", key);
  }
  if (counts) refreshSoon();
};
