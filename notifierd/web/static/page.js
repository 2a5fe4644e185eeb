// The live part: what goes on, by server-sent events. All words and numbers come ready from the server.
"use strict";

const AGAIN = 5000;

function show(now) {
  const section = document.getElementById("now");
  if (now.stamp !== section.dataset.stamp) refresh();
  section.className = `card now ${now.tone}`;
  say("headline", now.headline);
  say("detail", now.detail);
  for (const bar of now.bars) {
    say(`text-${bar.key}`, bar.text);
    say(`note-${bar.key}`, bar.note);
    document.getElementById(`bar-${bar.key}`)?.setAttribute("value", bar.done);
  }
  for (const [key, text] of now.facts) say(`fact-${key}`, text);
}

function say(id, text) {
  const element = document.getElementById(id); // not there before the page is fetched anew
  if (element && element.textContent !== text) element.textContent = text;
}

// The lists are out of date: fetch the page anew, and put what it says in place of what is there.
let refreshing = false;

async function refresh() {
  if (refreshing || document.activeElement.closest("form.filter")) return;
  refreshing = true;
  try {
    const answer = await fetch(location.href);
    if (answer.status === 401) location.reload(); // which asks for the token
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const open = [...document.querySelectorAll("details[open]")].map((each) => each.id);
    const focused = document.activeElement.id;
    document.querySelector("main").replaceChildren(...fresh.querySelector("main").children);
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    live(source.readyState === EventSource.OPEN);
  } catch {
    // The daemon is away; the stream's own error leads here again.
  } finally {
    refreshing = false;
  }
}

function live(is) {
  document.getElementById("live").hidden = !is;
}

let source;

function follow() {
  source = new EventSource("/events");
  source.addEventListener("open", () => live(true));
  source.addEventListener("now", (event) => show(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    live(false);
    if (source.readyState !== EventSource.CLOSED) return; // it tries again by itself
    setTimeout(() => refresh().then(follow), AGAIN);
  });
}

follow();
