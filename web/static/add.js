// Adding files: dropped or chosen, whole folders too; each is a row at once, sent two at a time.

import { at, post, upload } from "./api.js";
import { button, h, icon, megabytes, number, plural, say } from "./dom.js";
import { collectionId, emit, go, loadCollections, on, settings, state, tell, where } from "./state.js";

// Files on their way: { id, name, size, share, problem, file, stop, collection }
export const sending = [];
let turn = 0, working = 0;

const fits = file => {
  if (!/\.pdf$/i.test(file.name) && file.type !== "application/pdf") return { code: "not_a_pdf", message: "Not a PDF, so it was left out.", advice: "" };
  if (file.size > settings.max_file_mb * (1 << 20)) return { code: "file_too_large", message: `It has ${megabytes(file.size)}; the limit is ${settings.max_file_mb} MB.`, advice: "Split it." };
  if (!file.size) return { code: "empty_file", message: "The file is empty.", advice: "Check it." };
  return null;
};

// Quire is away or starting: what was cut off is sent again until it is back; it knows files by their bytes.
export const passing = one => one.problem?.again;
const later = one => {
  one.pause = Math.min(15_000, (one.pause || 1000) * 1.6);
  setTimeout(() => { if (sending.includes(one) && passing(one)) again(one); }, one.pause);
};

const drop = one => { sending.splice(sending.indexOf(one), 1); emit("sending"); };

const send = async one => {
  one.problem = null;
  one.stop = new AbortController();
  try {
    const held = await upload(one.file, share => { one.share = share; emit("sending"); }, one.stop.signal);
    const [job] = await post(`${at("collections", one.collection)}/documents`, { ...one.options, files: [held] });
    drop(one);
    tell([job]);
    if (job.duplicate) say(`${job.source.filename} is there already; nothing was added.`);
  } catch (problem) {
    if (problem.code === "cancelled") return drop(one);
    one.problem = problem;
    if (passing(one)) later(one);
    emit("sending");
  }
};

const work = async () => {
  if (working >= 2) return;
  working += 1;
  for (let one; (one = sending.find(s => s.share === null && !s.problem));) {
    one.share = 0;
    await send(one);
  }
  working -= 1;
  if (!working) loadCollections().catch(() => {});
};

export const again = one => { one.share = null; one.problem = null; emit("sending"); work(); };
on("connected", () => state.connected && sending.filter(passing).forEach(again)); // Quire is back
export const stop = one => one.share !== null && !one.problem ? one.stop?.abort() : drop(one);

const add = (files, options) => {
  const other = files.filter(f => !/\.pdf$/i.test(f.name));
  const pdfs = files.length > 1 ? files.filter(f => /\.pdf$/i.test(f.name)) : files;
  if (files.length > 1 && other.length) say(`${plural(other.length, "file")} left out: only PDFs are taken.`);
  for (const file of pdfs) sending.push({ id: turn += 1, name: file.name, size: file.size, file, share: null, problem: fits(file), options, collection: collectionId() });
  emit("sending");
  work();
  work();
};

// Folders that were dropped, read to the end.
const inside = async entry => {
  if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
  const reader = entry.createReader(), found = [];
  for (let part; (part = await new Promise((done, failed) => reader.readEntries(done, failed))).length;) found.push(...part);
  return (await Promise.all(found.map(inside))).flat();
};

const dropped = async transfer => {
  const entries = [...transfer.items].map(i => i.webkitGetAsEntry?.()).filter(Boolean);
  return entries.length ? (await Promise.all(entries.map(inside))).flat() : [...transfer.files];
};

const field = (label, control, hint) => h("label", { class: "option" }, h("span", {}, label), control, hint ? h("small", {}, hint) : null);

const options = () => {
  const strategy = h("select", { class: "field", name: "strategy" },
    [["auto", "Automatic: each page by what is on it"], ["fast", "Fast: the text that is in the file"], ["ocr_only", "OCR: every page as a picture"], ["hi_res", "High resolution: layout and table models"]]
      .map(([value, text]) => h("option", { value }, text)));
  const languages = h("input", { class: "field", name: "languages", placeholder: "en de", autocomplete: "off" });
  const password = h("input", { class: "field", name: "password", type: "password", autocomplete: "off" });
  const notify = h("input", { class: "field", name: "notify", placeholder: "name@example.org or https://…", autocomplete: "email" });
  const gpu = h("select", { class: "field", name: "gpu" },
    [["auto", "Where it pays"], ["never", "Never"], ["wait", "Wait up to an hour for one"]].map(([value, text]) => h("option", { value }, text)));
  const size = h("input", { class: "field", name: "size", type: "number", min: "128", max: "2048", step: "64", value: "512" });
  const given = () => ({ strategy: strategy.value, languages: languages.value, password: password.value, notify: notify.value, gpu: gpu.value,
      chunk_size: Math.max(128, Math.min(2048, Math.round(size.value) || 512)) });
  const node = h("details", { class: "options" }, h("summary", {}, "Options", icon("down")),
    h("form", { class: "option-grid", autocomplete: "off", onsubmit: e => e.preventDefault() },
      field("How pages are read", strategy),
      field("Languages of scanned pages", languages, "ISO codes; found by itself when left empty"),
      field("Password of locked files", password, "kept only until the file is read"),
      field("Tell me when it is done", notify, "a mail address or a webhook"),
      field("Longest chunk, characters", size),
      field("Borrow a GPU", gpu, "yours on ZeroGPU; a machine's own is used in any case")));
  return { node, given };
};

export const dropZone = () => {
  const chosen = options();
  const pick = (label, given) => {
    const input = h("input", { type: "file", hidden: true, multiple: true, ...given,
      onchange: () => { add([...input.files], chosen.given()); input.value = ""; } });
    return [input, button(label, () => input.click(), given.webkitdirectory ? {} : { class: "button primary" })];
  };
  const lead = h("p", { class: "lead" });
  const node = h("section", { class: "drop", id: "drop", "aria-label": "Add documents" },
    h("div", { class: "drop-row" }, icon("upload"),
      h("div", { class: "drop-words" }, lead, h("p", { class: "quiet" }, `PDF, up to ${number(settings.max_file_mb)} MB and ${number(settings.max_pages)} pages each, 500 at a time`)),
      h("div", { class: "drop-buttons" }, pick("Choose files", { accept: ".pdf,application/pdf", id: "files" }), pick("Choose a folder", { webkitdirectory: true, id: "folder" }))),
    chosen.node);
  let depth = 0;
  const over = on => node.classList.toggle("over", on);
  const holdsFiles = e => [...(e.dataTransfer?.types || [])].includes("Files");
  document.addEventListener("dragenter", e => { if (holdsFiles(e)) { depth += 1; over(true); } });
  document.addEventListener("dragleave", e => { if (holdsFiles(e)) { depth = Math.max(0, depth - 1); over(depth > 0); } });
  document.addEventListener("dragover", e => holdsFiles(e) && e.preventDefault());
  document.addEventListener("drop", async e => {
    if (!holdsFiles(e)) return;
    e.preventDefault();
    depth = 0;
    over(false);
    if (where.view !== "documents" || where.job || where.document) go({ view: "documents", job: "", document: "", p: "" });
    add(await dropped(e.dataTransfer), chosen.given());
  });
  return { node, lead: text => { lead.textContent = text; } };
};
