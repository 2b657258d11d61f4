// Requests to the app's own routes. A refusal is thrown as { code, message, advice, again }: whether the
// same may succeed later by itself.

const root = (window.gradio_config?.root || "").replace(/\/$/, "");
const sign = new URLSearchParams(location.search).get("__sign"); // a private Space's pass for its frame

export const url = path => {
  const whole = root + path;
  return sign ? `${whole}${whole.includes("?") ? "&" : "?"}__sign=${encodeURIComponent(sign)}` : whole;
};

const away = { code: "connection", message: "Quire cannot be reached.", advice: "Check the connection; it is tried again.", again: true };
const refused = (status, problem) => ({ ...problem, again: status === 408 || status === 503 || problem.code === "too_many_requests" });

// In the frame of huggingface.co the page around it lends headers for one request: whose GPU quota it is.
const lent = () => new Promise(done => {
  if (window.parent === window || !window.supports_zerogpu_headers) return done({});
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = ({ data }) => { port1.close(); done(data || {}); };
  setTimeout(done, 2000, {});
  window.parent.postMessage("zerogpu-headers", "https://huggingface.co", [port2]);
});

const ask = async (method, path, body) => {
  const quota = method !== "GET" || path === "/status" ? await lent() : {}; // the latter is asked for again and again
  let answer;
  try {
    answer = await fetch(url(path), {
      method, headers: method === "GET" ? quota : { ...quota, "X-Quire": "1", "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch { throw away; }
  const found = await answer.json().catch(() => null);
  if (!answer.ok || found === null) throw found?.error ? refused(answer.status, found.error) : answer.status < 502
    ? { code: `http_${answer.status}`, message: "Something unexpected happened.", advice: "Try again; if it stays, reload the page." } : away;
  return found;
};

export const get = path => ask("GET", path);
export const post = (path, body = {}) => ask("POST", path, body);
export const patch = (path, body) => ask("PATCH", path, body);
export const remove = path => ask("DELETE", path);
export const at = (...parts) => `/${parts.map(encodeURIComponent).join("/")}`;
export const told = problem => `${problem.message || problem} ${problem.advice || ""}`.trim();
export const page = (source, number, width) => url(`${at("pages", source, number)}?w=${width}`);

// Why an upload was refused: in Quire's words, or what a proxy in between is known to mean.
const refusal = request => {
  try { return refused(request.status, JSON.parse(request.responseText).error); } catch { /* not Quire's */ }
  if (request.status >= 502) return away;
  return request.status === 413
    ? { code: "file_too_large", message: "The file is larger than this Space takes.", advice: "Split it." }
    : { code: `http_${request.status}`, message: "The upload was refused.", advice: "Try again." };
};

// One file to the upload route; `progress` gets shares from 0 to 1. Gives what submit wants.
export const upload = (file, progress, signal) => new Promise((done, failed) => {
  const request = new XMLHttpRequest();
  const form = new FormData();
  form.append("files", file, file.name);
  request.open("POST", url("/gradio_api/upload"));
  request.upload.onprogress = e => e.lengthComputable && progress(e.loaded / e.total);
  request.onload = () => request.status === 200
    ? done({ path: JSON.parse(request.responseText)[0], orig_name: file.name })
    : failed(refusal(request));
  request.onerror = () => failed({ code: "connection", message: "The connection broke during the upload.", advice: "It is tried again when Quire can be reached.", again: true });
  request.onabort = () => failed({ code: "cancelled", message: "The upload was stopped.", advice: "" });
  signal.addEventListener("abort", () => request.abort());
  request.send(form);
});
