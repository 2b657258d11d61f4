// Mail addresses of one's own: a code is sent there, and typed in here.

import { get, post, told } from "./api.js";
import { dialog, h, iconButton, put, say } from "./dom.js";

export const mail = async () => {
  const list = h("ul", { class: "tokens" });
  const address = h("input", { type: "email", class: "field", id: "mail-address", maxlength: "300", autocomplete: "email", required: true, autofocus: true });
  const code = h("input", { type: "text", class: "field", id: "mail-code", maxlength: "12", autocomplete: "one-time-code", required: true });
  const paint = async () => {
    const found = (await get("/account")).addresses;
    put(list, found.map(a => h("li", {}, h("span", { dir: "auto" }, a), iconButton("trash", `Remove ${a}`, () => attempt(() => post("/account/addresses/remove", { address: a }))))));
  };
  const attempt = async act => { try { await act(); await paint(); return true; } catch (problem) { say(told(problem), "bad"); return false; } };
  const typed = h("form", { hidden: true, onsubmit: async e => {
    e.preventDefault();
    if (await attempt(() => post("/account/addresses/confirm", { address: address.value, code: code.value }))) { typed.hidden = true; address.value = code.value = ""; }
  } }, h("label", { for: "mail-code" }, "Code from the mail"), code, h("div", { class: "actions" }, h("button", { class: "button primary" }, "Confirm")));
  const ask = async e => {
    e.preventDefault();
    if (await attempt(() => post("/account/addresses", { address: address.value }))) { typed.hidden = false; code.focus(); }
  };
  try { await paint(); } catch (problem) { return say(told(problem), "bad"); }
  dialog("Mail when a document is read", [
    h("p", {}, "Mails go to addresses that you have confirmed."), list,
    h("form", { onsubmit: ask }, h("label", { for: "mail-address" }, "Another address"), address, h("div", { class: "actions" }, h("button", { class: "button" }, "Send a code"))), typed]);
};
