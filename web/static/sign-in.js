// Asks for the password of this Quire, and loads the page once it was right.

import { post, told } from "./api.js";
import { h, say } from "./dom.js";

const field = h("input", { type: "password", class: "field", id: "password", autocomplete: "current-password", required: true, autofocus: true });
const enter = async event => {
  event.preventDefault();
  try { await post("/sign-in", { password: field.value }); } catch (problem) { return say(told(problem), "bad"); }
  location.reload();
};
document.querySelector("#quire").append(h("main", { id: "main", class: "enter" }, h("h1", {}, "Quire"),
  h("form", { onsubmit: enter }, h("label", { for: "password" }, "Password"), field, h("button", { class: "button primary" }, "Sign in"))));
