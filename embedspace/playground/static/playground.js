"use strict";
// What htmx does not do: values beside sliders, the address of the view, streamed answers, and copying.
(() => {
  const form = document.getElementById("settings");
  const byId = (id) => document.getElementById(id);
  const cards = new Map([...document.querySelectorAll("[data-card]")].map((card) => [card.dataset.card, card]));
  let asking = null; // the AbortController of the answers that are being written

  const settings = () => new URLSearchParams(new FormData(form));
  const showValue = (slider) => {
    const output = form.querySelector(`output[for="${slider.id}"]`);
    if (output) output.textContent = slider.value;
  };
  form.querySelectorAll("input[type=range]").forEach((slider) => {
    slider.addEventListener("input", () => showValue(slider));
    showValue(slider); // a browser may have kept the position of a slider over a reload
  });
  form.addEventListener("submit", (event) => event.preventDefault());

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.target.id !== "panel") return;
    const address = byId("address");
    if (address) history.replaceState(null, "", address.getAttribute("href"));
    const asked = byId("answers").dataset.asked;
    byId("stale").hidden = asked === undefined || asked === settings().toString();
  });
  document.addEventListener("htmx:sendError", () => {
    byId("message").textContent = "The playground does not answer any more. Is it still running in your terminal?";
  });

  const textOf = (card) => card.querySelector(".answer");
  const note = (card, text) => { card.querySelector(".note").textContent = text; };

  const show = (event) => {
    const card = cards.get(event.card);
    if (event.kind === "status") byId("progress").textContent = event.text;
    if (!card) return;
    byId("progress").textContent = "";
    if (event.kind === "piece") {
      if (!card.dataset.begun) { card.dataset.begun = "yes"; textOf(card).textContent = ""; note(card, "writing …"); }
      textOf(card).append(event.text); // text, never HTML
    } else if (event.kind === "done") {
      if (!card.dataset.begun) textOf(card).textContent = "(no text)";
      card.dataset.done = "yes";
      note(card, "");
    } else if (event.kind === "error") {
      card.classList.add("failed");
      textOf(card).textContent = event.text;
      note(card, "no answer");
    }
  };

  const compare = () => {
    const text = cards.get("text");
    if (!text.dataset.done) return;
    for (const [name, card] of cards)
      if (name !== "text" && card.dataset.done && !card.hidden)
        note(card, textOf(card).textContent === textOf(text).textContent ? "same as plain text" : "differs from plain text");
  };

  const readLines = async function* (body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line) yield JSON.parse(line);
    }
  };

  const setAsking = (controller) => {
    asking = controller;
    byId("ask").disabled = controller !== null;
    byId("stop").disabled = controller === null;
    byId("answers").setAttribute("aria-busy", String(controller !== null));
  };

  const ask = async () => {
    if (asking) return;
    const controller = new AbortController();
    setAsking(controller);
    const body = settings();
    byId("answers").scrollIntoView({ block: "nearest" });
    byId("answers").dataset.asked = body.toString();
    byId("stale").hidden = true;
    byId("progress").textContent = "";
    for (const card of cards.values()) {
      delete card.dataset.begun;
      delete card.dataset.done;
      card.classList.remove("failed");
      card.hidden = false;
      textOf(card).textContent = "";
      note(card, "waiting …");
    }
    try {
      const response = await fetch("/answers", { method: "POST", body, signal: controller.signal });
      if (!response.ok) throw new Error(await response.text());
      for await (const event of readLines(response.body)) {
        if (event.kind === "cards") for (const [name, card] of cards) card.hidden = !event.cards.includes(name);
        else show(event);
      }
      compare();
    } catch (error) {
      const stopped = error.name === "AbortError";
      for (const card of cards.values())
        if (!card.dataset.done && !card.classList.contains("failed")) note(card, stopped ? "stopped" : "no answer");
      if (!stopped) byId("progress").textContent = error instanceof TypeError
        ? "The connection to the playground broke off. Is it still running in your terminal?" : error.message;
    } finally {
      setAsking(null);
    }
  };

  const copy = async (button) => {
    const text = button.dataset.copy === "address" ? byId("address").href : byId(button.dataset.copy).textContent;
    const label = button.dataset.label || button.textContent;
    button.dataset.label = label;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      const range = document.createRange(); // no permission: select it, for Ctrl-C
      const shown = byId(button.dataset.copy);
      range.selectNodeContents(shown);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = "Selected: press Ctrl-C";
    }
    setTimeout(() => { button.textContent = label; }, 1500);
  };

  byId("ask").addEventListener("click", ask);
  byId("stop").addEventListener("click", () => asking && asking.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask();
    if (event.key === "Escape" && asking) asking.abort();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-copy]");
    if (button) copy(button);
  });
  addEventListener("pagehide", () => asking && asking.abort());
})();
