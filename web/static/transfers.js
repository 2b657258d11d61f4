// Exports, pushes, imports, changes of model: what is on its way out or in, and what came of it.

import { at, get, post, told, upload, url } from "./api.js";
import { asked, button, dialog, h, icon, iconButton, picked, plural, put, say } from "./dom.js";
import { collection, FINISHED, go, link, loadCollections, on, settings, state, tell, where } from "./state.js";

export const FORMATS = [["parquet", "Parquet with vectors"], ["chroma", "Chroma directory"], ["json", "JSON elements"], ["markdown", "Markdown with figures"]];
const begun = new Set(); // from this page: its file is fetched, its collection opened by itself

const begin = async (path, body) => {
  try {
    const job = await post(path, body);
    begun.add(job.id);
    tell([job]);
  } catch (problem) { say(told(problem), "bad"); }
};

export const takeAway = format => begin(`${at("collections", collection().id)}/export`, { format });

const push = (id, dataset) => begin(`${at("collections", id)}/push`, { dataset });

// Offered to whoever signed in; what it needs of the Hub is asked for only then.
export const mayPush = () => { const you = state.status?.you; return you?.may_push || (you?.kind === "person" && settings.may_ask_to_push); };

const askLeave = c => {
  const away = url(`/login/huggingface?push=1&_target_url=${encodeURIComponent(link())}`);
  dialog(`Push “${c.title}” to Hugging Face`, [
    h("p", {}, "Hugging Face asks you first whether Quire may make repositories for you, and write those; it reaches no other. You come back here then."),
    h("div", { class: "actions" }, h("a", { class: "button primary", href: away, autofocus: true }, "Go on to Hugging Face"))]);
};

export const pushAway = async () => {
  if (!state.status.you.may_push) return askLeave(collection());
  const c = collection(), like = c.title.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "");
  const dataset = await asked(`Push “${c.title}” to Hugging Face`, "Dataset", `${state.status.you.name}/${like || "collection"}`, "Push", [
    "A private dataset of yours gets the records with their vectors, the figures and the PDFs; one that was pushed before is renewed.",
    "Your sign-in is used for this and kept nowhere.",
  ]);
  if (dataset !== null) push(c.id, dataset);
};

// Models come as folders, as owner/name, or as owner/name@commit: by their last part, a commit as git shortens it.
export const modelName = model => model.split("/").pop().replace(/@([0-9a-f]{7})[0-9a-f]{33}$/, "@$1");
const isOf = (c, model) => c.model === model || c.model?.startsWith(`${model}@`);

export const changeModel = async () => {
  const c = collection();
  const model = await picked(`Change the model of “${c.title}”`, [
    `${plural(c.records, "record")} get vectors of another embedding model; no PDF is read again. Until the last one is made, the model of now answers.`,
  ], state.status.models.map(m => ({ value: m, label: modelName(m), note: isOf(c, m) ? `${m}, the model of now` : m, disabled: isOf(c, m) })), "Change");
  if (model !== null) begin(`${at("collections", c.id)}/reembed`, { model });
};

// The button that takes in an exported zip.
export const importer = () => {
  const input = h("input", { type: "file", hidden: true, accept: ".zip,application/zip", id: "import", onchange: async () => {
    const [file] = input.files;
    input.value = "";
    say(`Uploading ${file.name}.`);
    try { begin("/import", { file: await upload(file, () => {}, new AbortController().signal) }); } catch (problem) { say(told(problem), "bad"); }
  } });
  return [input, iconButton("upload", "Import an exported collection", () => input.click())];
};

const title = job => {
  const name = job.source.filename;
  if (job.kind === "export") return `“${name}” as ${FORMATS.find(([f]) => f === job.target)?.[1] || job.target}`;
  if (job.kind === "push") return `“${name}” to ${job.target}`;
  if (job.kind === "reembed") return `“${name}” for ${modelName(job.target)}`;
  return job.result ? "A collection was imported" : "An import";
};

const fetched = job => h("a", { class: "button", href: url(job.result.url), download: job.result.name }, "Download");
const opened = job => go({ collection: job.result.collection, view: "documents", job: "", document: "", q: "" });

const acts = job => {
  if (job.kind === "push" && (job.status === "waiting" || job.error?.code === "push_needs_owner")) return button("Push once more", () => push(job.collection, job.target), { class: "button primary" });
  if (job.status !== "succeeded" || job.kind === "reembed") return null;
  if (job.kind === "export") return fetched(job);
  if (job.kind === "push") return h("a", { class: "button", href: job.result.url, target: "_blank", rel: "noopener" }, "Open the dataset");
  return button("Open it", () => opened(job));
};

const line = job => {
  const part = Object.values(job.stages || {})[0], over = FINISHED.has(job.status);
  const share = part?.total ? Math.floor(100 * part.done / part.total) : 0;
  return h("li", { "data-job": job.id, "data-status": job.status },
    h("div", { class: "grow" }, h("b", { dir: "auto" }, title(job)),
      h("p", { class: `says ${job.error ? "bad" : ""}`, dir: "auto" }, job.error ? told(job.error) : job.message || "It waits for its turn."),
      over ? null : h("span", { class: "bar", role: "progressbar", "aria-label": title(job), "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": String(share) }, h("i", { style: { width: `${share}%` } }))),
    acts(job),
    iconButton("close", over ? "Take it off the list" : "Cancel it", () => begin(at("jobs", job.id, over ? "dismiss" : "cancel"))));
};

// What was begun here goes on by itself when it is there.
const arrived = job => {
  if (job.status !== "succeeded" || !begun.delete(job.id)) return;
  if (job.kind === "export") fetched(job).click();
  if (job.kind === "import") { say(`${plural(job.result.records, "record")} imported.`, "good"); loadCollections().then(() => opened(job)).catch(() => {}); }
};

// What goes on is shown in every view; above the documents also what ended last, and the rest folded.
export const transfers = () => {
  const list = h("ul", { class: "transfers", "aria-label": "Exports, imports and changes of model" });
  const past = h("ul", { class: "transfers", "aria-label": "Earlier exports and imports" });
  const many = h("span", {}), fold = h("details", { class: "log earlier", hidden: true }, h("summary", {}, many, icon("down")), past);
  const paint = () => {
    const shown = [...state.transfers.values()].sort((a, b) => b.created_at - a.created_at);
    const [last, ...earlier] = where.view === "documents" && !where.job && !where.document ? shown.filter(job => FINISHED.has(job.status)) : [];
    put(list, shown.filter(job => job === last || !FINISHED.has(job.status)).map(line));
    put(past, earlier.map(line));
    many.textContent = `${earlier.length} earlier`;
    fold.hidden = !earlier.length;
    shown.forEach(arrived);
  };
  on("transfers", paint);
  on("where", paint);
  const load = () => get("/transfers").then(tell).catch(() => {}); // the stream tells of those that go on
  load();
  return [list, fold];
};
