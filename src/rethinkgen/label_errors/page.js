"use strict";
// What the page can do beyond being read: pages of cards, one pair of classes, decisions, and their table as a file.
const data = JSON.parse(document.getElementById("data").textContent);
const cards = [...document.querySelectorAll(".card")];
const pair = document.getElementById("pair");
const where = document.getElementById("where");
const AT_ONCE = 48;
let page = 0;

function chosen() {
  return cards.filter(card => pair.value === "" || card.dataset.pair === pair.value);
}

function show() {
  const list = chosen();
  const last = Math.max(0, Math.ceil(list.length / AT_ONCE) - 1);
  page = Math.min(Math.max(page, 0), last);
  const shown = new Set(list.slice(page * AT_ONCE, (page + 1) * AT_ONCE));
  for (const card of cards) card.hidden = !shown.has(card);
  where.textContent = list.length === 0 ? "none" : `${page * AT_ONCE + 1} to ${page * AT_ONCE + shown.size} of ${list.length}`;
  for (const button of document.querySelectorAll("[data-turn]")) {
    button.disabled = Number(button.dataset.turn) < 0 ? page === 0 : page === last;
  }
}

function count() {
  const decided = data.rows.filter(row => row[6] !== "").length;
  document.getElementById("decided").textContent = decided === 1 ? "1 decided" : `${decided} decided`;
}

function cell(text) {
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

for (const button of document.querySelectorAll("[data-turn]")) {
  button.addEventListener("click", () => {
    page += Number(button.dataset.turn);
    show();
    cards.find(card => !card.hidden)?.scrollIntoView({block: "nearest"});
  });
}
pair.addEventListener("change", () => { page = 0; show(); });
cards.forEach((card, number) => {
  const row = data.rows[number];
  const suggested = row[2];
  const other = card.querySelector("select");
  // Hundreds of cards with hundreds of classes each: the list is made once one is about to be chosen from it.
  const fill = () => {
    if (other.length > 1) return;
    data.classes.forEach((name, place) => other.add(new Option(name, place)));
  };
  if (other !== null) {
    other.add(new Option("suggested", ""));
    other.addEventListener("focus", fill);
    other.addEventListener("pointerdown", fill);
  }
  card.addEventListener("change", event => {
    if (event.target === other) {
      row[2] = other.value === "" ? suggested : data.classes[Number(other.value)];
      const relabel = card.querySelector("input[value=relabel]");
      relabel.disabled = false;
      relabel.checked = true;
    }
    row[6] = card.querySelector("input:checked")?.value ?? "";
    card.dataset.decision = row[6];
    count();
  });
});
document.getElementById("save").addEventListener("click", () => {
  const text = [data.header, ...data.rows].map(row => row.map(cell).join(",")).join("\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", text, "\n"], {type: "text/csv"}));
  link.download = data.file;
  link.click();
  URL.revokeObjectURL(link.href);
});
document.getElementById("tools").hidden = false;
show();
count();
