// Elements from strings as text nodes. Nothing here, or anywhere in this folder, parses HTML into the
// page: what comes from documents, names and people is text.

const shown = kids => kids.flat(Infinity).filter(k => k !== null && k !== undefined && k !== false && k !== "");

export const h = (tag, given, ...kids) => {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(given || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") e.className = value;
    else if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(e.style, value);
    else if (["value", "checked", "disabled", "selected"].includes(name)) e[name] = value;
    else e.setAttribute(name, value === true ? "" : value);
  }
  e.append(...shown(kids));
  return e;
};

// What a control is, over a repaint: where it leads or what it is called.
const known = e => e.getAttribute("href") || e.dataset.page || e.getAttribute("aria-label") || e.textContent;

// Other children in place of those there are; whoever was at one of them by keyboard stays there.
export const put = (parent, ...kids) => {
  const held = parent.contains(document.activeElement) ? document.activeElement : null;
  parent.replaceChildren(...shown(kids));
  if (held && !held.isConnected) [...parent.querySelectorAll(held.tagName)].find(e => known(e) === known(held))?.focus({ preventScroll: true });
};

const PATHS = {
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16.5 16.5 21 21",
  plus: "M12 5v14M5 12h14",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  back: "M15 5l-7 7 7 7",
  next: "M9 5l7 7-7 7",
  close: "M6 6l12 12M18 6 6 18",
  menu: "M4 7h16M4 12h16M4 17h16",
  upload: "M12 16V4m0 0L7 9m5-5 5 5M4 16v3a1 1 0 0 0 1 1h14a1 1 0 0 0 1-1v-3",
  file: "M7 3h7l5 5v12a1 1 0 0 1-1 1H7a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1zM14 3v5h5",
  check: "M5 12.5l4.5 4.5L19 7.5",
  alert: "M12 8v5M12 16.5v.01M12 3 2.5 20h19L12 3z",
  retry: "M4 12a8 8 0 0 1 14-5l2 2M20 4v5h-5M20 12a8 8 0 0 1-14 5l-2-2M4 20v-5h5",
  link: "M10 14a4 4 0 0 0 6 0l3-3a4 4 0 0 0-6-6l-1 1M14 10a4 4 0 0 0-6 0l-3 3a4 4 0 0 0 6 6l1-1",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  down: "M6 9l6 6 6-6",
};

export const icon = name => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", `icon ${name}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
};

export const button = (label, onclick, given = {}) =>
  h("button", { type: "button", class: "button", onclick, ...given }, given.icon ? icon(given.icon) : null, label);

export const iconButton = (name, label, onclick, given = {}) =>
  h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...given }, icon(name));

export const number = n => Number(n).toLocaleString("en");
export const plural = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;
export const megabytes = n => n >= 1 << 30 ? `${(n / (1 << 30)).toFixed(1)} GB` : n >= 1e5 ? `${(n / (1 << 20)).toFixed(1)} MB` : `${n && Math.max(1, Math.round(n / 1024))} kB`;
export const span = s => s < 1 ? "under a second" : s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;
export const clock = at => new Date(at * 1000).toLocaleTimeString("en-GB");
export const when = at => {
  const ago = Date.now() / 1000 - at;
  if (ago < 60) return "just now";
  if (ago < 3600) return `${Math.floor(ago / 60)} min ago`;
  if (ago < 86400) return `${Math.floor(ago / 3600)} h ago`;
  return new Date(at * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
};

export const until = at => {
  const left = at - Date.now() / 1000;
  return left < 5400 ? `in ${Math.max(1, Math.round(left / 60))} min` : left < 172800 ? `in ${Math.round(left / 3600)} h` : `in ${Math.round(left / 86400)} days`;
};

// The words of a question that stand in a text, as <mark>.
export const marked = (text, words) => {
  if (!words.length) return [text];
  const escaped = words.map(w => w.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const parts = text.split(new RegExp(`(?<![\\p{L}\\p{N}])(${escaped.join("|")})`, "giu"));
  return parts.map((part, i) => i % 2 ? h("mark", {}, part) : part);
};

export const words = query => [...new Set(query.toLowerCase().match(/[\p{L}\p{N}]{3,}/gu) || [])].slice(0, 12);

// A table of a document: read in an inert document, its cells' text put into a new table.
export const cells = html => {
  const inert = new DOMParser().parseFromString(html, "text/html");
  return [...inert.querySelectorAll("tr")].slice(0, 500).map(row => [...row.querySelectorAll("td, th")].map(cell => ({
    text: cell.textContent.trim(), head: cell.tagName === "TH",
    across: Math.min(50, Number(cell.getAttribute("colspan")) || 1), down: Math.min(500, Number(cell.getAttribute("rowspan")) || 1),
  })));
};

export const table = (html, label = "Table", found = []) => h("div", { class: "table", tabindex: "0", role: "region", "aria-label": label },
  h("table", {}, h("tbody", {}, cells(html).map(row => h("tr", {}, row.map(c =>
    h(c.head ? "th" : "td", { colspan: c.across > 1 ? c.across : null, rowspan: c.down > 1 ? c.down : null, dir: "auto" }, marked(c.text, found))))))));

// Rows of plain text; a cell over several columns stands in the first of them.
export const grid = html => {
  const out = [];
  cells(html).forEach((row, r) => {
    out[r] ??= [];
    let column = 0;
    for (const c of row) {
      while (out[r][column] !== undefined) column += 1;
      for (let y = 0; y < c.down; y += 1) for (let x = 0; x < c.across; x += 1) (out[r + y] ??= [])[column + x] = x || y ? "" : c.text;
    }
  });
  return out.map(row => Array.from(row, text => text ?? ""));
};

// What begins like a formula would run in a spreadsheet, pasted or opened; a number, with its sign, does not.
const safe = text => /^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]/.test(text) && !/^[+-]?[\d.,\u00a0\u202f ]*\d ?%?$|^[+-]$/.test(text) ? `'${text}` : text;
const quoted = text => `"${text.replaceAll('"', '""')}"`;
export const csv = html => `\ufeff${grid(html).map(row => row.map(text => quoted(safe(text))).join(",")).join("\r\n")}\r\n`;
export const tsv = html => grid(html).map(row => row.map(text => safe(text.replace(/\s+/g, " "))).join("\t")).join("\n");

export const download = (name, blob) => {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};

// Said once at the foot of the page, and to screen readers; receipts and refusals, never progress.
export const say = (text, kind = "") => {
  let place = document.querySelector("#said");
  if (!place) document.querySelector("#quire").append(place = h("div", { id: "said", role: "status", "aria-live": "polite" }));
  const note = h("div", { class: `note ${kind}` }, h("span", { dir: "auto" }, text), iconButton("close", "Dismiss", () => note.remove()));
  place.append(note);
  setTimeout(() => note.remove(), kind === "bad" ? 15_000 : 9_000);
};

// A dialog over the page, gone when it is left; `closed` is told what it was closed with, "" for nothing.
export const dialog = (title, kids, { kind = "ask", closed = () => {} } = {}) => {
  const node = h("dialog", { class: kind, "aria-labelledby": "dialog-title" },
    h("div", { class: "dialog-head" }, h("h2", { id: "dialog-title", dir: "auto" }, title), iconButton("close", "Close", () => node.close(""))), kids);
  node.addEventListener("close", () => { node.remove(); closed(node.returnValue); });
  document.querySelector("#quire").append(node);
  node.showModal();
  return node;
};

// A question before something that cannot be undone: the value of what was chosen, "" for none.
export const chosen = (title, lines, choices, none) => new Promise(closed => {
  const close = value => () => node.close(value);
  const node = dialog(title, [lines.map(line => h("p", { dir: "auto" }, line)),
    h("div", { class: "actions" }, button(none, close(""), { autofocus: true }),
      choices.map(([value, label], i) => button(label, close(value), { class: i === choices.length - 1 ? "button danger" : "button" })))], { closed });
});

export const confirmed = async (title, lines, act) => await chosen(title, lines, [["yes", act]], "Keep") === "yes";

// One line of text, asked for in a dialog; null when it was left.
export const asked = (title, label, value, act, lines = []) => new Promise(answer => {
  const field = h("input", { type: "text", class: "field", id: "ask-field", value, maxlength: "200", dir: "auto", required: true, autofocus: true });
  const node = dialog(title, [lines.map(line => h("p", { dir: "auto" }, line)), h("form", { method: "dialog" },
    h("label", { for: "ask-field" }, label), field,
    h("div", { class: "actions" }, button("Cancel", () => node.close("")), h("button", { class: "button primary", value: "yes" }, act)))],
  { closed: how => answer(how === "yes" ? field.value : null) });
  field.select();
});

// One of several, asked for in a dialog, as { value, label, note, disabled }; null when it was left.
export const picked = (title, lines, choices, act) => new Promise(answer => {
  const free = choices.find(c => !c.disabled);
  const node = dialog(title, [lines.map(line => h("p", { dir: "auto" }, line)), h("form", { method: "dialog" },
    h("fieldset", { class: "choices" }, h("legend", { class: "hidden" }, title), choices.map(c => h("label", {},
      h("input", { type: "radio", name: "choice", value: c.value, checked: c === free, disabled: c.disabled, autofocus: c === free }),
      h("span", { dir: "auto" }, c.label, c.note ? h("small", {}, c.note) : null)))),
    h("div", { class: "actions" }, button("Cancel", () => node.close("")), h("button", { class: "button primary", value: "yes" }, act)))],
  { closed: how => answer(how === "yes" ? node.querySelector("input:checked").value : null) });
});

export const menu = (label, items) => {
  const box = h("details", { class: "menu" }, h("summary", { class: "icon-button", "aria-label": label, title: label }, icon("more")),
    h("div", { class: "menu-items" }, items.map(([text, act, kind]) => h("button", { type: "button", class: kind || "", onclick: () => { box.open = false; act(); } }, text))));
  box.addEventListener("keydown", e => { if (e.key === "Escape" && box.open) { e.stopPropagation(); box.open = false; box.querySelector("summary").focus(); } });
  box.addEventListener("focusout", e => { if (e.relatedTarget && !box.contains(e.relatedTarget)) box.open = false; });
  document.addEventListener("click", e => { if (!box.contains(e.target)) box.open = false; });
  return box;
};

export const empty = (title, ...lines) => h("div", { class: "empty" }, h("h2", {}, title), lines.map(l => typeof l === "string" ? h("p", {}, l) : l));
