// The page's one event stream: open while the page is seen, made anew when it breaks.

import { url } from "./api.js";
import { emit, refresh, state, tell } from "./state.js";

let stream = null, again = 0, pause = 1000, before = false;

const connected = yes => { if (state.connected !== yes) { state.connected = yes; emit("connected"); } };

const close = () => { stream?.close(); stream = null; clearTimeout(again); };

const open = () => {
  close();
  if (document.visibilityState !== "visible") return;
  stream = new EventSource(url("/events"));
  stream.onopen = () => { pause = 1000; connected(true); if (before) refresh(); before = true; }; // news may have been missed
  stream.onmessage = message => tell(JSON.parse(message.data).jobs);
  stream.onerror = () => {
    connected(false);
    if (stream?.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    close();
    again = setTimeout(open, pause * (0.75 + Math.random() / 2));
    pause = Math.min(15_000, pause * 1.6);
  };
};

export const follow = () => {
  document.addEventListener("visibilitychange", open);
  window.addEventListener("pagehide", close);
  open();
};
