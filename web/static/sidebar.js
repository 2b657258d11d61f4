// Collections, who is here, and what is saved where.

import { post, told, url } from "./api.js";
import { asked, button, h, icon, iconButton, megabytes, number, plural, put, say, until, when } from "./dom.js";
import { mail } from "./mail.js";
import { tokens } from "./tokens.js";
import { importer } from "./transfers.js";
import { collection, go, link, loadCollections, on, settings, state } from "./state.js";

const create = async () => {
  const title = await asked("New collection", "Name", "", "Create");
  if (title === null) return;
  try {
    const made = await post("/collections", { title });
    await loadCollections();
    go({ collection: made.id, view: "documents", job: "", document: "", q: "", source: "" });
  } catch (problem) { say(told(problem), "bad"); }
};

const entry = c => h("li", {}, h("a", {
  href: link({ collection: c.id, view: "documents", job: "", document: "", q: "", source: "", p: "" }),
  "aria-current": collection()?.id === c.id ? "true" : null,
  onclick: e => { if (e.metaKey || e.ctrlKey) return; e.preventDefault(); go({ collection: c.id, view: "documents", job: "", document: "", q: "", source: "", p: "" }); close(); },
}, h("span", { class: "name", dir: "auto" }, c.title),
  c.active ? h("span", { class: "busy", title: `${c.active} in progress` }, h("span", { class: "hidden" }, `${c.active} in progress, `)) : null,
  h("span", { class: "count", title: plural(c.sources, "document") }, number(c.sources))));

const close = () => document.querySelector("#side")?.classList.remove("open");

// What the stores hold, in one line; the rest unfolds.
const saved = status => {
  const r = status?.remotes;
  if (!r) return [h("span", { class: "dot wait" }), status ? "Quire is starting" : "…", []];
  const home = { hub: "the Hugging Face dataset", local: "this machine's disk", s3: "the bucket" }[r.primary] || r.primary;
  const lines = [r.saved_at ? `Saved on ${home} ${when(r.saved_at)}.` : `Nothing is on ${home} yet.`];
  if (r.error) lines.push(`${r.error.message} ${r.error.advice}`);
  if (r.unsaved) lines.push(`${plural(r.unsaved, "change")} here ${r.unsaved === 1 ? "is" : "are"} not in it yet.`);
  lines.push(`What a restart now would lose: ${status.restart_loses.message}`);
  if (r.mirror) lines.push(r.lag ? `The mirror (${r.mirror}) is ${plural(r.lag, "save")} behind and catches up by itself.` : `The mirror (${r.mirror}) is equal.`);
  if (r.primary === "local") lines.push("No remote is set up: if this disk is wiped, everything is lost. See QUIRE_HUB_DATASET in docs/self-hosting.md.");
  const late = r.unsaved || r.lag || r.error;
  return [h("span", { class: `dot ${r.unsaved || status.restart_loses.everything ? "wait" : r.primary === "local" ? "soft" : late ? "wait" : "good"}` }),
    r.unsaved ? `${plural(r.unsaved, "change")} not yet saved` : status.restart_loses.everything ? "A restart loses everything" : r.primary === "local" ? "Saved on this disk only" : r.lag ? "Saved; mirror behind" : "All saved", lines];
};

const signIn = () => {
  window.parent.postMessage({ type: "SET_SCROLLING", enabled: true }, "*"); // the Hub's frame shows its form
  location.assign(url(`/login/huggingface?_target_url=${encodeURIComponent(link())}`));
};

const signOut = async () => {
  try { await post("/account/sign-out"); } catch (problem) { return say(told(problem), "bad"); }
  location.reload();
};

// Who is here, until when, and how much room is left.
const account = status => {
  const you = status?.you;
  if (!you) return null;
  const { bytes, limit_bytes: limit } = you.storage || {};
  const room = limit ? h("p", {}, h("span", { class: "bar", "aria-hidden": "true" }, h("i", { style: { width: `${Math.min(100, Math.round(100 * bytes / limit))}%` } })), `${megabytes(bytes)} of ${megabytes(limit)} used`) : null;
  const leave = h("button", { type: "button", class: "link", onclick: signOut }, "Sign out");
  if (you.kind === "local") return h("div", { class: "who" }, settings.asks_password ? h("p", {}, leave) : null, room);
  if (you.kind === "visitor") return h("div", { class: "who" },
    h("p", {}, "You are a visitor. This workspace belongs to this browser", you.expires_at ? ` and is erased ${until(you.expires_at)} unless you come back` : "", "."),
    button("Sign in with Hugging Face", signIn), room);
  return h("div", { class: "who" }, h("p", {}, "Signed in as ", h("b", { dir: "auto" }, you.name), " · ", leave), room);
};

export const sidebar = () => {
  const list = h("ul", { class: "collections" });
  const foot = h("div", { class: "side-foot" });
  const node = h("aside", { id: "side", "aria-label": "Collections" },
    h("div", { class: "brand" }, h("span", { class: "mark-q", "aria-hidden": "true" }), h("span", {}, "Quire"), iconButton("close", "Close", close, { class: "icon-button only-phone" })),
    h("div", { class: "side-head" }, h("h2", {}, "Collections"), h("span", { class: "grow" }), importer(), iconButton("plus", "New collection", create)),
    list, foot);
  let open = false;
  const paintList = () => {
    const held = state.collections;
    put(list, held === null ? h("li", { class: "quiet" }, "…") : held.length ? held.map(entry)
      : h("li", { class: "quiet" }, "The first document makes “default”; or name one yourself with +."));
  };
  const paintFoot = () => {
    const [dot, text, lines] = saved(state.status);
    const more = h("details", { class: "saved", open, ontoggle: e => { open = e.target.open; } },
      h("summary", {}, dot, h("span", {}, text), icon("down")),
      lines.map(line => h("p", {}, line)),
      state.status?.model_error ? h("p", { class: "says bad" }, told(state.status.model_error))
        : state.status?.device && h("p", {}, `Vectors: ${state.status.device === "loading" ? "the model is loading" : `on the ${state.status.device.toUpperCase()}`}.`));
    put(foot, account(state.status), more,
      h("p", { class: "links" }, state.status?.you && state.status.you.kind !== "visitor" ? [h("button", { type: "button", class: "link", onclick: tokens }, "Tokens"), " · ", state.status.you.kind === "person" ? [h("button", { type: "button", class: "link", onclick: mail }, "Mail"), " · "] : null] : null, h("a", { href: url("/gradio_api/openapi.json"), target: "_blank", rel: "noopener" }, "API"), " · ",
        h("span", { class: state.connected ? "" : "off" }, state.connected ? "live" : "reconnecting…")));
  };
  on("collections", paintList);
  on("where", paintList);
  ["status", "connected"].forEach(what => on(what, paintFoot));
  paintList();
  paintFoot();
  document.addEventListener("keydown", e => e.key === "Escape" && close());
  return { node, toggle: () => node.classList.toggle("open") };
};
