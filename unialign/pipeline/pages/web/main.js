// Builds the page from its content; keys; light and dark.

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  document.documentElement.style.colorScheme = name;
  for (const draw of redrawn) draw();
}

function keyboard(browser, help) {
  const keys = [["/", "search clips"], ["j  k", "next, previous clip"], ["space", "play, pause"], ["←  →", "frame back, forward"], ["g then a letter", "first letter of a section: go there"], ["d", "dark or light"], ["?", "this list"]];
  help.append(h("h3", {}, "Keys"), h("dl", {}, keys.map(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)])), h("button", { onclick: () => help.close() }, "close"));
  let going = false;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const place = document.activeElement;
    if (event.key === "Escape" && place) return place.blur();
    if (place && (["INPUT", "SELECT"].includes(place.tagName) && place.type !== "range")) return;
    const actions = { "/": () => document.getElementById("search")?.focus(), j: () => browser.step(1), k: () => browser.step(-1), ArrowRight: () => browser.seek(1), ArrowLeft: () => browser.seek(-1), d: () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"), "?": () => (help.open ? help.close() : help.showModal()) };
    if (going) {
      going = false;
      const link = [...document.querySelectorAll("nav a")].find((each) => each.textContent.toLowerCase().startsWith(event.key));
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    if (event.key === "g") { going = true; return; }
    if (event.key === " " && !(place && ["BUTTON", "SUMMARY"].includes(place.tagName))) { event.preventDefault(); return browser.toggle(); }
    if (event.key in actions) { event.preventDefault(); actions[event.key](); }
  });
}

async function start() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
  matchMedia("print").addEventListener("change", (event) => setTheme(event.matches || !dark.matches ? "light" : "dark"));
  if (typeof DecompressionStream === "undefined") throw new Error("this page needs a browser of 2023 or later (Chromium 80, Firefox 113, Safari 16.4)");
  const page = await content(document.getElementById("data").textContent);
  const browser = clipBrowser(page), help = h("dialog", { "aria-label": "Keys" });
  const sections = [rowsSection(page), classSection(page, browser), confusionSection(page, browser), clipSection(page, browser), mapSection(page, browser), textSection(page), coverageSection(page), speedSection(page), claims(page), provenanceSection(page)].filter(Boolean);
  const links = sections.map((each) => h("a", { href: "#" + each.id }, { rows: "Rows", classes: "Classes", confusion: "Confusion", clips: page.runs.length ? "Test clips" : "Samples", map: "Map", texts: "Words", coverage: "Quarantine", speed: "Speed", claims: "Limits", provenance: "Provenance" }[each.id]));
  const main = document.getElementById("page");
  put(main, opening(page), h("nav", { "aria-label": "Sections" }, links, h("span", { class: "end" }, h("button", { title: "dark or light (d)", "aria-label": "Dark or light", onclick: () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark") }, "◐"), h("button", { title: "keys (?)", "aria-label": "Keys", onclick: () => help.showModal() }, "?"))), sections, help, tip);
  keyboard(browser, help);
  browser.start();
  requestAnimationFrame(tick);
  let last = innerWidth, wait = 0;
  addEventListener("resize", () => { if (innerWidth === last) return; last = innerWidth; clearTimeout(wait); wait = setTimeout(() => { for (const draw of redrawn) draw(); }, 120); });
  document.documentElement.dataset.ready = Math.round(performance.now());
}

start().catch((error) => {
  document.getElementById("page").replaceChildren(h("p", { class: "wait" }, `This page cannot be drawn: ${error.message}.`));
  document.documentElement.dataset.failed = error.message;
  console.error(error);
});
