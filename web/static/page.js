() => {
  // Untrusted text reaches the page through textContent only; ids come from our own attributes.
  const root = ((window.gradio_config || {}).root || "").replace(/\/$/, "");
  const make = (tag, cls, ...kids) => { const e = document.createElement(tag); if (cls) e.className = cls; e.append(...kids); return e; };
  const closeSide = () => { if (innerWidth <= 768) { const t = document.querySelector("#side .toggle-button"); if (t && document.querySelector("#side.open")) t.click(); } document.body.classList.add("side-ready"); };
  requestAnimationFrame(() => requestAnimationFrame(closeSide));

  let stream = null, following = "";
  const finished = new Set(["succeeded", "partial", "failed", "cancelled"]);
  const paint = job => {
    const card = document.querySelector(`.job[data-job="${CSS.escape(job.id)}"]`);
    if (!card) return;
    const before = card.dataset.status;
    card.dataset.status = job.status;
    const pill = card.querySelector("[data-part=status]");
    pill.textContent = job.status; pill.className = `pill ${job.status}`;
    const said = job.error ? job.error.message : job.message || (job.position ? `waiting for its turn, place ${job.position}` : "");
    const left = job.eta_seconds ? ` About ${job.eta_seconds < 90 ? Math.ceil(job.eta_seconds) + " s" : Math.ceil(job.eta_seconds / 60) + " min"} left.` : "";
    card.querySelector("[data-part=message]").textContent = said + left;
    for (const [name, s] of Object.entries(job.stages || {})) {
      const stage = card.querySelector(`[data-stage="${CSS.escape(name)}"]`);
      if (!stage || !s.total) continue;
      const share = Math.floor(100 * s.done / s.total);
      stage.querySelector("i").style.width = `${+share}%`;
      stage.querySelector(".bar").setAttribute("aria-valuenow", share);
      if (!["probe", "save", "notify"].includes(name)) stage.querySelector("small").textContent = `${s.done} / ${s.total}`;
    }
    if (finished.has(job.status) && !finished.has(before)) document.querySelector("#refresh button, button#refresh")?.click();
  };
  const follow = () => {
    if (document.visibilityState !== "visible") { stream?.close(); stream = null; following = ""; return; }
    const ids = [...document.querySelectorAll(".job")].filter(c => !finished.has(c.dataset.status)).map(c => c.dataset.job).slice(0, 100).join(",");
    if (ids === following) return;
    stream?.close(); stream = null; following = ids;
    if (!ids) return;
    stream = new EventSource(`${root}/events?ids=${ids}`);
    stream.onmessage = m => paint(JSON.parse(m.data));
  };
  setInterval(follow, 700);
  document.addEventListener("visibilitychange", follow);

  let shown = null;
  const preview = (source, page, boxes) => {
    const place = document.querySelector("#preview .place");
    if (!place) return;
    shown = { source, page };
    const img = make("img"); img.alt = `Page ${page}`;
    img.src = `${root}/pages/${encodeURIComponent(source)}/${+page}?w=1200`;
    const sheet = make("div", "sheet", img);
    img.onerror = () => { sheet.replaceChildren(make("p", "empty", "There is no such page.")); };
    for (const b of boxes) if (b.page === +page) {
      const m = make("span", "mark"); m.setAttribute("role", "img"); m.setAttribute("aria-label", "the place of the hit");
      m.style.left = `${100 * b.x0 / b.w}%`; m.style.top = `${100 * b.y0 / b.h}%`;
      m.style.width = `${100 * (b.x1 - b.x0) / b.w}%`; m.style.height = `${100 * (b.y1 - b.y0) / b.h}%`;
      sheet.append(m);
    }
    const turn = (label, to) => { const b = make("button", "quiet", label); b.type = "button"; b.disabled = to < 1; b.onclick = () => preview(source, to, []); return b; };
    place.replaceChildren(make("div", "turn", turn("‹ page before", +page - 1), make("b", "", `Page ${page}`), turn("next page ›", +page + 1)), sheet);
    if (innerWidth <= 768) place.scrollIntoView({ behavior: "smooth" });
  };
  const open = async e => {
    const act = e.target.closest("[data-action]");
    if (act) {
      const card = act.closest(".job"); act.disabled = true;
      const answer = await fetch(`${root}/jobs/${encodeURIComponent(card.dataset.job)}/${act.dataset.action}`, { method: "POST", headers: { "X-Quire": "1" } });
      const body = await answer.json();
      if (!answer.ok) card.querySelector("[data-part=message]").textContent = `${body.error.message} ${body.error.advice}`;
      document.querySelector("#refresh button, button#refresh")?.click();
      return;
    }
    const item = e.target.closest("[data-source]");
    if (!item) return;
    document.querySelectorAll("[data-source][aria-current]").forEach(x => x.removeAttribute("aria-current"));
    item.setAttribute("aria-current", "true");
    if (!item.closest("#results")) document.querySelector("#tab-search-button")?.click();
    setTimeout(() => preview(item.dataset.source, item.dataset.page, JSON.parse(item.dataset.boxes || "[]")), 60);
  };
  document.addEventListener("click", open);
  document.addEventListener("keydown", e => { if ((e.key === "Enter" || e.key === " ") && e.target.matches(".hit")) { e.preventDefault(); open(e); } });
}
