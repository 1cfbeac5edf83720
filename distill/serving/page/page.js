"use strict";

// Texts of listings and keyphrases only ever become text nodes: they may hold markup.

const byId = (id) => document.getElementById(id);
const form = byId("form"), title = byId("title"), category = byId("category"), ask = byId("ask");
let asked = null; // the request in progress

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function relevanceCell(row, threshold) {
  const cell = element("td");
  if (row.relevance === null) {
    cell.textContent = "no assistant";
    return cell;
  }
  const below = threshold !== null && row.relevance < threshold;
  const box = element("div", below ? "relevance below" : "relevance");
  const track = element("div", "track");
  track.setAttribute("aria-hidden", "true");
  const fill = element("div", "fill");
  fill.style.width = `${100 * row.relevance}%`;
  track.append(fill);
  if (threshold !== null) {
    const line = element("div", "threshold");
    line.style.left = `${100 * threshold}%`;
    track.append(line);
  }
  box.append(track, element("span", "value", row.relevance.toFixed(3)));
  cell.append(box);
  return cell;
}

function reason(row, threshold) {
  if (row.fate === "below_threshold") return `relevance below the threshold, ${threshold.toFixed(3)}`;
  if (row.fate === "repeated") return `says the same as “${row.same_as}”`;
  return row.fate.replaceAll("_", " ");
}

function tableRow(row, threshold) {
  const line = element("tr");
  const keyphrase = element("th", "", row.keyphrase);
  keyphrase.scope = "row";
  const shared = [keyphrase, element("td", "n", row.cosine.toFixed(3)), relevanceCell(row, threshold)];
  if (row.rank !== null) line.append(element("td", "n", row.rank), ...shared);
  else line.append(...shared, element("td", "", reason(row, threshold)));
  return line;
}

function show(found) {
  const kept = found.keyphrases.filter((row) => row.rank !== null);
  const dropped = found.keyphrases.filter((row) => row.rank === null);
  const rule = found.threshold === null
    ? "No threshold is known, so none is dropped for its relevance."
    : `The line in each bar is the threshold, ${found.threshold.toFixed(3)}.`;
  byId("summary").textContent = `${kept.length} of ${found.keyphrases.length} candidates of “${found.recommender}”. ${rule}`;
  byId("kept").tBodies[0].replaceChildren(...kept.map((row) => tableRow(row, found.threshold)));
  byId("dropped").tBodies[0].replaceChildren(...dropped.map((row) => tableRow(row, found.threshold)));
  byId("kept").hidden = !kept.length;
  byId("none").hidden = kept.length > 0;
  byId("dropped-heading").textContent = `Dropped (${dropped.length})`;
  byId("dropped-details").hidden = !dropped.length;
  byId("dropped-details").open = !kept.length;
  byId("result").hidden = false;
  byId("status").textContent = `${kept.length} kept, ${dropped.length} dropped.`;
}

function fail(text) {
  byId("failure").textContent = text;
  byId("failure").hidden = false;
  byId("status").textContent = "";
}

function titleError(text) {
  byId("title-error").textContent = text;
  byId("title-error").hidden = !text;
  if (text) title.setAttribute("aria-invalid", "true");
  else title.removeAttribute("aria-invalid");
}

async function submit(event) {
  event.preventDefault();
  byId("failure").hidden = true;
  if (!title.value.trim()) {
    titleError("Type the listing’s title first.");
    title.focus();
    return;
  }
  titleError("");
  if (asked) asked.abort();
  const mine = asked = new AbortController();
  byId("result").hidden = true;
  byId("status").textContent = "Asking the models…";
  ask.setAttribute("aria-disabled", "true");
  try {
    const answer = await fetch("v1/explain", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ title: title.value, category: category.value.trim() }),
      signal: mine.signal,
    });
    const found = await answer.json();
    if (mine !== asked) return;
    if (answer.ok) show(found);
    else fail(`The server refused: ${found.error}.`);
  } catch (error) {
    if (mine !== asked) return;
    fail("The server does not answer. Is it still running?");
  } finally {
    if (mine === asked) {
      asked = null;
      ask.removeAttribute("aria-disabled");
    }
  }
}

form.addEventListener("submit", submit);
title.addEventListener("input", () => titleError(""));
title.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});
