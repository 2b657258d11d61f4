// API tokens of whoever is signed in: made here, told once, revoked here.

import { get, post, told } from "./api.js";
import { asked, button, confirmed, h, put, say } from "./dom.js";

const day = seconds => new Date(seconds * 1000).toLocaleDateString();

export const tokens = () => {
  const list = h("ul", { class: "tokens" });
  const fresh = h("div", { role: "status" });
  const paint = async () => {
    try {
      const { tokens: held } = await get("/account");
      put(list, held.length ? held.map(one => h("li", {}, h("span", { dir: "auto" }, one.label), h("small", {}, ` until ${day(one.expires_at)} `),
        button("Revoke", () => revoke(one), { "aria-label": `Revoke ${one.label}` }))) : h("li", {}, "None yet. Scripts and MCP clients send one as Authorization: Bearer."));
    } catch (problem) { say(told(problem), "bad"); }
  };
  const revoke = async one => {
    if (!await confirmed(`Revoke “${one.label}”?`, ["Whatever uses it is refused from now on."], "Revoke")) return;
    try { await post("/account/tokens/revoke", { id: one.id }); put(fresh); await paint(); } catch (problem) { say(told(problem), "bad"); }
  };
  const make = async () => {
    const label = await asked("New token", "What it is for", "", "Make it");
    if (label === null) return;
    try {
      const made = await post("/account/tokens", { label });
      put(fresh, h("label", {}, "Copy it now; it is not shown again.", h("input", { type: "text", readonly: true, value: made.token, "aria-label": "The new token", onfocus: e => e.target.select() })));
      await paint();
    } catch (problem) { say(told(problem), "bad"); }
  };
  return h("details", { class: "who-tokens", ontoggle: e => { if (e.target.open) paint(); else put(fresh); } },
    h("summary", {}, "API tokens"), list, fresh, button("New token", make));
};
