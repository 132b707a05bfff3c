"use strict";
// Sorting of tables, and what points and cells say when pointed at. The page is whole without it.
(() => {
  const names = new Intl.Collator(undefined, { numeric: true });

  function sortBy(table, heading) {
    const column = heading.cellIndex;
    const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].map((row) => {
      const cell = row.cells[column];
      const order = cell.dataset.order;
      return { row, number: order === undefined ? null : Number(order), text: cell.textContent };
    });
    rows.sort((a, b) => {
      const isMissing = (entry) => entry.number === null && entry.text === "–";
      if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b); // what is missing stays below
      if (a.number !== null && b.number !== null) return direction * (a.number - b.number);
      if (a.number !== null || b.number !== null) return direction * (a.number !== null ? -1 : 1); // numbers, then texts
      return direction * names.compare(a.text, b.text);
    });
    table.tBodies[0].append(...rows.map((entry) => entry.row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    if (table.tBodies[0].rows.length < 2) continue;
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sortBy(table, heading));
      heading.append(button);
    }
  }

  // Searching: a row is shown if each word of the search begins one of its own; a number is looked for as it is.
  function finds(words, wanted) {
    return wanted.every((part) => words.some((word) => (/^\d+$/.test(part) ? word === part : word.startsWith(part))));
  }

  for (const atlas of document.querySelectorAll(".atlas")) {
    const rows = [...atlas.querySelectorAll("tbody tr")].map((row) => {
      return { row, words: row.dataset.words.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [] };
    });
    const label = document.createElement("label");
    const field = document.createElement("input");
    const status = document.createElement("span");
    field.type = "search";
    label.append(`Search ${atlas.dataset.things} by name, number or class `, field);
    status.setAttribute("role", "status");
    status.setAttribute("aria-live", "polite");
    const search = () => {
      const wanted = field.value.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
      for (const { row, words } of rows) row.hidden = !finds(words, wanted);
      const shown = rows.filter(({ row }) => !row.hidden).length;
      status.textContent = `${shown} of ${rows.length} ${atlas.dataset.things} shown`;
    };
    field.addEventListener("input", search);
    search();
    const form = document.createElement("p");
    form.className = "search";
    form.append(label, status);
    atlas.querySelector(".scroll").before(form);
  }

  const tip = document.getElementById("tip");

  function say(text, x, y) {
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
    tip.style.top = `${y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18}px`;
  }

  // The browser shows titles late and not at all on a touch screen; they are said by the page instead.
  for (const title of document.querySelectorAll("svg title")) {
    title.parentElement.dataset.tip = title.textContent;
    title.remove();
  }

  const rasters = new Map();

  function rasterOf(image) {
    if (!rasters.has(image)) {
      const data = JSON.parse(image.parentElement.querySelector("script").textContent);
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      rasters.set(image, { data, context });
    }
    return rasters.get(image);
  }

  function cellText(image, event) {
    const { data, context } = rasterOf(image);
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const box = image.getBoundingClientRect();
    const column = Math.min(width - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * width)));
    const row = Math.min(height - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * height)));
    const place = `${data.rows[row] ?? row}, ${data.columns[column] ?? column}`;
    if (data.cells) {
      const value = data.cells[row * width + column];
      if (value === undefined && !data.isComplete) return place;
      return `${place}: ${value ?? 0} ${data.what}`;
    }
    const [red, , blue] = context.getImageData(column, row, 1, 1).data;
    const shade = red < blue ? red - 255 : 255 - blue; // blue is below zero; orange and greys are above
    const value = (shade / 255) * data.largest;
    return `${place}: ${shade === 255 ? "at least" : shade === -255 ? "at most" : "about"} ${value.toPrecision(2)}`;
  }

  function answer(event) {
    const target = event.target;
    if (!(target instanceof Element)) return;
    if (target.matches(".raster img")) return say(cellText(target, event), event.clientX, event.clientY);
    say(target.closest("[data-tip]")?.dataset.tip, event.clientX, event.clientY);
  }
  document.addEventListener("pointermove", answer);
  document.addEventListener("pointerdown", answer); // a finger does not move before it points
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") say(""); });
  document.addEventListener("scroll", () => say(""), { passive: true });

  // A link leads to a section that may be folded.
  function reveal(hash) {
    const target = document.getElementById(hash.slice(1)); // names of sections have nothing that an address encodes
    for (let fold = target?.querySelector(":scope > details.section") ?? target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  }
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest('a[href^="#"]') : null;
    if (link) reveal(link.hash);
  });
  addEventListener("hashchange", () => reveal(location.hash));
  reveal(location.hash);

  const sections = [...document.querySelectorAll("details.section")], all = document.getElementById("fold-all");
  const isAllOpen = () => sections.every((fold) => fold.open);
  const nameAll = () => { all.textContent = isAllOpen() ? "Fold all sections" : "Open all sections"; };
  all.style.visibility = "visible"; // its place is kept, so nothing moves
  all.addEventListener("click", () => {
    const isOpening = !isAllOpen();
    for (const fold of sections) fold.open = isOpening;
  });
  for (const fold of sections) fold.addEventListener("toggle", nameAll);

  // On paper nothing can be opened.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const fold of opened) fold.open = true;
  });
  addEventListener("afterprint", () => { for (const fold of opened) fold.open = false; });
})();
