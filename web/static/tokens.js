// Tokens for scripts and tools: made here, told once, revoked here.

import { get, post, told } from "./api.js";
import { dialog, h, iconButton, put, say, until } from "./dom.js";

export const tokens = async () => {
  const list = h("ul", { class: "tokens" }), fresh = h("div", {});
  const label = h("input", { type: "text", class: "field", id: "token-label", maxlength: "60", placeholder: "laptop", autofocus: true });
  const paint = async () => {
    const found = (await get("/account")).tokens;
    put(list, found.map(t => h("li", {}, h("span", { dir: "auto" }, t.label || "without a name"), h("span", { class: "quiet" }, `ends ${until(t.expires_at)}`),
      iconButton("trash", `Revoke ${t.label || "this token"}`, async () => { await attempt(() => post("/account/tokens/revoke", { id: t.id })); }))));
  };
  const attempt = async act => { try { await act(); await paint(); } catch (problem) { say(told(problem), "bad"); } };
  const make = () => attempt(async () => {
    const made = await post("/account/tokens", { label: label.value });
    label.value = "";
    put(fresh, h("p", {}, "Copy it now; it is not shown again."), h("code", { class: "secret", tabindex: "0" }, made.token));
  });
  try { await paint(); } catch (problem) { return say(told(problem), "bad"); }
  dialog("Tokens for scripts and tools", [
    h("p", {}, "A script that sends one as “Authorization: Bearer …” acts as you, on your documents only."),
    list, h("form", { onsubmit: e => { e.preventDefault(); make(); } }, h("label", { for: "token-label" }, "Name of a new token"), label,
      h("div", { class: "actions" }, h("button", { class: "button primary" }, "Make a token"))), fresh]);
};
