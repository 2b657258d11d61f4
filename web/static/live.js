// The page's one event stream: open while the page is seen, made anew when it breaks or falls silent.

import { url } from "./api.js";
import { emit, refresh, state, tell } from "./state.js";

const SILENT = 16_000; // the server says something every five seconds
let stream = null, again = 0, heard = 0, before = false;

const connected = yes => { if (state.connected !== yes) { state.connected = yes; emit("connected"); } };

const close = () => { stream?.close(); stream = null; clearTimeout(again); };

const open = () => {
  close();
  if (document.visibilityState !== "visible") return;
  heard = Date.now();
  stream = new EventSource(url("/events"));
  stream.onopen = () => { heard = Date.now(); connected(true); if (before) refresh(); before = true; }; // news may have been missed
  stream.onmessage = message => { heard = Date.now(); tell(JSON.parse(message.data).jobs); };
  stream.addEventListener("beat", () => { heard = Date.now(); });
  stream.onerror = () => {
    connected(false);
    if (stream?.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    close();
    again = setTimeout(open, 500 + 1000 * Math.random()); // all is back within two seconds of the server
  };
};

// A network that changed, or a machine that slept, leaves a stream that looks open and says nothing.
const look = () => {
  if (!stream || Date.now() - heard < SILENT) return;
  connected(false);
  open();
};

export const follow = () => {
  document.addEventListener("visibilitychange", open);
  window.addEventListener("pagehide", close);
  window.addEventListener("online", open);
  setInterval(look, 4000);
  open();
};
