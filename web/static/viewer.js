// A page as a picture with places marked on it, in shares of the page: it fits any width.

import { page as picture } from "./api.js";
import { h, iconButton, put } from "./dom.js";

export const placed = (box, label, given = {}) => h("span", {
  class: "place", role: "img", "aria-label": label, ...given,
  style: { left: `${100 * box.x0 / box.w}%`, top: `${100 * box.y0 / box.h}%`, width: `${100 * (box.x1 - box.x0) / box.w}%`, height: `${100 * (box.y1 - box.y0) / box.h}%` },
});

// A place nobody needs to hear of: what it shows is said beside it too.
const SILENT = { "aria-hidden": "true", role: null, "aria-label": null };
export const silent = (box, given) => placed(box, null, { ...SILENT, ...given });

// `marks` lie on the page; the first is scrolled to when the picture is there.
export const sheet = (source, number, marks = [], width = 1200) => {
  const image = h("img", { alt: `Page ${number}`, src: picture(source, number, width), width: String(width) });
  const node = h("div", { class: "sheet loading", "data-page": String(number) }, image, marks);
  image.addEventListener("load", () => node.classList.remove("loading"));
  image.addEventListener("error", () => put(node, h("p", { class: "quiet missing" }, "This page cannot be shown yet.")));
  return node;
};

export const thumbnail = (source, number, boxes) => h("span", { class: "thumb" },
  h("img", { loading: "lazy", alt: "", width: "96", height: "124", src: picture(source, number, 200) }),
  boxes.filter(b => b.page === number).slice(0, 4).map(b => silent(b)));

export const turner = (number, pages, turn) => h("div", { class: "turner", role: "group", "aria-label": "Pages" },
  iconButton("back", "Page before", () => turn(number - 1), { disabled: number <= 1 }),
  h("span", {}, "Page ", h("input", { class: "field page-number", type: "number", min: "1", max: String(pages || ""), value: String(number), "aria-label": "Page number",
    onchange: e => turn(Math.max(1, Math.min(pages || 1e6, Number(e.target.value) || 1))) }), pages ? ` of ${pages}` : ""),
  iconButton("next", "Next page", () => turn(number + 1), { disabled: Boolean(pages) && number >= pages }));
