// Keeps the page of a job that has not ended fresh: fetches it again and puts its main part in place.
"use strict";

const EVERY_MS = 2000;

async function refresh() {
  const answer = await fetch(location.href, { cache: "no-store" });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.querySelector("main").replaceWith(fresh.querySelector("main"));
  document.title = fresh.title;
}

async function keepFresh() {
  while (document.querySelector('[data-live="yes"]')) {
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    if (document.hidden || getSelection().toString()) continue;
    try {
      await refresh();
    } catch {
      // The sandbox may be restarting; the next round asks again.
    }
  }
}

keepFresh();
