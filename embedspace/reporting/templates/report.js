"use strict";
// What the page can do besides being read: save drawings, find records, and say which tables scroll.
(() => {
  const make = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };

  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    target.hidden = false;
    target.scrollIntoView();
  };
  addEventListener("hashchange", open);

  const hint = () => {
    for (const box of document.querySelectorAll(".scroll"))
      box.classList.toggle("wide", box.scrollWidth > box.clientWidth + 1);
  };
  addEventListener("resize", hint);
  document.addEventListener("toggle", hint, true);

  const palette = () => {
    const wanted = ["ink", "rule", "card", "control", ...[1, 2, 3, 4, 5, 6].map((n) => `series-${n}`)];
    const style = getComputedStyle(document.documentElement);
    return wanted.map((name) => `--${name}: ${style.getPropertyValue(`--${name}`)};`).join(" ");
  };
  for (const figure of document.querySelectorAll("figure")) {
    const save = make("a", { href: "#", class: "save" }, "SVG");
    save.addEventListener("click", () => {
      const copy = figure.querySelector("svg").cloneNode(true);
      copy.setAttribute("style", `${palette()} background: var(--card); font-family: sans-serif;`);
      save.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }));
      save.download = figure.dataset.name;
    });
    figure.querySelector("figcaption").append(" ", save);
  }

  const table = document.querySelector("table.records");
  if (table) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({
      row, words: row.textContent.toLowerCase(),
      tags: { ...(row.dataset.outcome && { answers: row.dataset.outcome }), ...JSON.parse(row.dataset.tags) },
    }));
    const search = make("input", { type: "search", placeholder: "Search cases, questions and answers" });
    search.setAttribute("aria-label", "Search records");
    const shown = make("span", { class: "shown", role: "status" });
    const filters = new Map();
    const apply = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const { row, tags, words: text } of rows) {
        const kept = words.every((word) => text.includes(word))
          && [...filters].every(([name, filter]) => !filter.value || tags[name] === filter.value.slice(1));
        row.hidden = !kept;
        count += kept;
      }
      shown.textContent = `${count} of ${rows.length} shown`;
    };
    const bar = make("div", { class: "filters" }, search);
    for (const name of new Set(rows.flatMap(({ tags }) => Object.keys(tags)))) {
      const values = [...new Set(rows.map(({ tags }) => tags[name]).filter((value) => value !== undefined))];
      if (values.length < 2 || values.length > 60) continue;
      values.sort((a, b) => a - b || a.localeCompare(b));
      const filter = make("select", {}, make("option", { value: "" }, "all"));
      for (const value of values) filter.append(make("option", { value: `=${value}` }, value || "(empty)"));
      filter.addEventListener("change", apply);
      filters.set(name, filter);
      bar.append(make("label", {}, `${name.replaceAll("_", " ")} `, filter));
    }
    bar.append(shown);
    table.closest(".scroll").before(bar);
    search.addEventListener("input", apply);
    apply();

    const valueOf = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = make("button", { type: "button" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const order = down ? -1 : 1;
        rows.sort((a, b) => {
          const [left, right] = [valueOf(a.row, column), valueOf(b.row, column)];
          return order * (left - right || left.localeCompare(right, undefined, { numeric: true }));
        });
        body.append(...rows.map(({ row }) => row));
      });
    });
  }
  hint();
  open();
})();
