// The browser of clips: a list that filters, and a player beside it.

const ROW = 44;

function clipBrowser(page) {
  const { clips, classes } = page, total = clips.ids.length;
  const pictured = new Map(page.shown.map((clip, place) => [clip.clip, place]));
  const state = { run: page.main, query: "", filter: page.runs.length ? 1 : 0, label: -1, chosen: -1, frame: 0, playing: !still };
  let found = [];
  const guess = (clip) => (page.runs.length ? clips.predicted[state.run][clip] : -1);
  const filters = [
    ["all", () => true],
    ...(page.runs.length ? [["wrong", (clip) => guess(clip) !== clips.labels[clip]], ["right", (clip) => guess(clip) === clips.labels[clip]]] : []),
    ...(page.runs.length > 1 ? [["runs disagree", (clip) => clips.predicted.some((each) => each[clip] !== clips.predicted[0][clip])]] : []),
    ["with frames or skeletons", (clip) => pictured.has(clip)],
    ...(clips.statuses ? [["not stored everywhere", (clip) => clips.statuses.some((each) => each.codes[clip] !== 0)]] : []),
  ];
  const list = h("div", { class: "list", tabindex: 0, role: "listbox", "aria-label": "Clips" }), inside = h("div", { style: "position:relative" });
  const rows = h("div", { style: "display:contents" });
  list.append(inside); inside.append(rows);
  const number = h("span", { class: "soft", "aria-live": "polite" }), player = h("div", { class: "player" });

  function search() {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean), keep = filters[state.filter][1];
    const low = words.length ? classes.map((name) => name.toLowerCase()) : [];
    found = [];
    for (let clip = 0; clip < total; clip++) {
      if (state.label >= 0 && clips.labels[clip] !== state.label) continue;
      if (!keep(clip)) continue;
      if (words.length) {
        const text = `${clips.ids[clip].toLowerCase()} ${low[clips.labels[clip]] ?? ""} ${low[guess(clip)] ?? ""}`;
        if (!words.every((word) => text.includes(word))) continue;
      }
      found.push(clip);
    }
    // Those with pictures first; each group stays in order.
    found = [...found.filter((clip) => pictured.has(clip)), ...found.filter((clip) => !pictured.has(clip))];
    number.textContent = `${found.length.toLocaleString("en")} of ${counted(total, "clip")}, ${found.filter((clip) => pictured.has(clip)).length} with frames or skeletons`;
    inside.style.height = found.length * ROW + "px";
    list.scrollTop = 0;
    choose(found.length ? found[0] : -1);
  }
  function showRows() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4), last = Math.min(found.length, first + Math.ceil(list.clientHeight / ROW) + 9);
    rows.replaceChildren(...found.slice(first, last).map((clip, place) => {
      const truth = classes[clips.labels[clip]] ?? "no label", answer = guess(clip);
      const second = page.runs.length
        ? h("div", { class: answer === clips.labels[clip] ? "right" : "wrong" }, `${answer === clips.labels[clip] ? "✓" : "✗"} ${classes[answer] ?? answer} ${percent(clips.confidence[state.run][clip] / 255, 0)} %`)
        : h("div", { class: clips.statuses.some((each) => each.codes[clip]) ? "wrong" : "soft" }, clips.notes[clip]);
      return h("div", { class: clip === state.chosen ? "row now" : "row", role: "option", "aria-selected": clip === state.chosen, style: `top:${(first + place) * ROW}px`, onclick: () => choose(clip) },
        h("div", { title: clips.ids[clip] }, h("b", {}, truth), h("span", { class: "soft" }, `  ${pictured.has(clip) ? "▶ " : ""}${clips.ids[clip]}`)), second);
    }));
  }
  function choose(clip, scroll = false) {
    state.chosen = clip;
    state.frame = 0;
    if (scroll) list.scrollTop = Math.max(0, found.indexOf(clip) * ROW - list.clientHeight / 2);
    showRows();
    showClip();
  }
  function step(by) {
    if (!found.length) return;
    const place = Math.min(found.length - 1, Math.max(0, found.indexOf(state.chosen) + by));
    if (place * ROW < list.scrollTop || (place + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = Math.max(0, place * ROW - list.clientHeight / 2);
    choose(found[place]);
  }
  let draw = () => {}, moved = () => {};
  redrawn.add(() => draw());
  function showClip() {
    const clip = state.chosen;
    draw = moved = () => {};
    if (clip < 0) return put(player, h("p", {}, "No clip fits."));
    const place = pictured.get(clip), strip = place === undefined ? null : page.shown[place];
    const answer = guess(clip), truth = clips.labels[clip];
    put(player,
      h("div", { class: "id" }, clips.ids[clip]),
      h("p", {}, "class: ", h("b", {}, classes[truth] ?? "no label"), page.runs.length ? [h("br"), `answer of ${page.runs[state.run].label}: `, h("b", { class: answer === truth ? "right" : "wrong" }, `${answer === truth ? "✓" : "✗"} ${classes[answer] ?? answer}`), ` (${percent(clips.confidence[state.run][clip] / 255, 0)} %)`] : null),
      strip ? film(strip) : h("p", { class: "soft" }, page.shown.length ? "This page holds no frames of this clip: they are kept for a choice of clips, wrong answers first, so that it stays small." : "The stores of frames and poses are not there, so no clip has pictures."),
      details(clip, strip),
    );
  }
  function film(strip) {
    const canvas = h("canvas", { class: "film", role: "img", "aria-label": "The clip" }), label = h("small", { class: "soft" });
    canvas.style.aspectRatio = `${strip.width} / ${strip.height}`;
    canvas.style.maxWidth = `${Math.round((430 * strip.width) / strip.height)}px`;
    const slider = h("input", { type: "range", min: 0, max: Math.max(0, strip.count - 1), value: 0, "aria-label": "Frame", oninput: () => { state.playing = false; state.frame = Number(slider.value); moved(); } });
    const button = h("button", { onclick: () => { state.playing = !state.playing; moved(); } });
    imageOf(strip).then((image) => {
      draw = () => { if (canvas.isConnected) drawFrame(canvas, strip, image, state.frame, page.layout); };
      moved = () => {
        slider.value = state.frame;
        button.textContent = state.playing ? "pause" : "play";
        label.textContent = `frame ${strip.frames[state.frame] + 1}${strip.length ? " of " + strip.length : ""} (shown: ${state.frame + 1} of ${strip.count})`;
        draw();
      };
      moved();
      play(canvas, () => { if (state.playing && strip.count > 1) { state.frame = (state.frame + 1) % strip.count; moved(); } });
    });
    const weights = strip.weights ? weightBars(strip, (place) => { state.playing = false; state.frame = place; moved(); }) : null;
    return [canvas, h("div", { class: "controls" }, button, label), slider, weights];
  }
  function weightBars(strip, seek) {
    const width = 420, tall = 58, count = strip.weights.length, top = Math.max(...strip.weights), cell = width / count;
    return h("figure", {}, s("svg", { viewBox: `0 0 ${width} ${tall}`, role: "img", "aria-label": "Weight of each frame", style: "width:100%" },
      strip.weights.map((weight, place) => s("g", { style: "cursor:pointer", onclick: () => seek(Math.min(strip.count - 1, Math.floor(((place + 0.5) * strip.count) / count))) }, s("rect", { x: place * cell + 1.5, y: tall - 16 - (weight / top) * (tall - 30), width: cell - 3, height: (weight / top) * (tall - 30), fill: "var(--main)", rx: 1.5 }), s("text", { x: (place + 0.5) * cell, y: tall - 3, "text-anchor": "middle", class: "soft", style: `font-size:${Math.min(11, cell / 2.6)}px` }, weight.toFixed(2))))),
      h("figcaption", {}, `Share of each of the network's ${count} time steps in the similarity, from left to right in time; ${(1 / count).toFixed(2)} each would be equal.`));
  }
  function details(clip, strip) {
    const parts = [];
    if (clips.importance && clips.importance[state.run]) {
      const { names, values } = clips.importance[state.run];
      parts.push(h("h3", {}, "Weight of each modality"), bars(names.map((name, place) => { const value = values[clip * names.length + place] / 255; return [name, value, value.toFixed(2)]; }), 1));
    }
    if (strip && strip.top) parts.push(h("h3", {}, `Answers of ${page.runs[page.main].label}`), bars(strip.top.map(([label, share]) => [classes[label], share, percent(share) + " %", label === clips.labels[clip] ? "right" : "soft"]), 1));
    if (strip && strip.texts) parts.push(h("h3", {}, "Nearest class texts"), bars(strip.texts.map(([label, share]) => [classes[label], share, percent(share) + " %", label === clips.labels[clip] ? "right" : "soft"]), 1), h("small", { class: "soft" }, "By the branch that compares clip and texts alone, as shares (softmax)."));
    if (page.runs.length > 1) parts.push(h("details", {}, h("summary", {}, "Answers of all runs"), table(["run", "answer", "percent"], page.runs.map((run, place) => [run.label, h("span", { class: clips.predicted[place][clip] === clips.labels[clip] ? "right" : "wrong" }, classes[clips.predicted[place][clip]] ?? ""), percent(clips.confidence[place][clip] / 255, 0)]), {})));
    if (clips.statuses) parts.push(h("h3", {}, "In the stores"), fields(clips.statuses.map((each) => [each.name, each.words[each.codes[clip]]])));
    return parts;
  }
  list.addEventListener("scroll", showRows);
  const labels = [...classes.keys()].sort((first, second) => classes[first].localeCompare(classes[second]));
  const picker = h("select", { onchange: () => { state.label = Number(picker.value); search(); } }, h("option", { value: -1 }, "all classes"), labels.map((label) => h("option", { value: label }, classes[label])));
  const filter = h("select", { onchange: () => { state.filter = Number(filter.value); search(); } }, filters.map(([name], place) => h("option", { value: place, selected: place === state.filter }, name)));
  const field = h("input", { type: "search", id: "search", placeholder: "id or class ( / )", "aria-label": "Search", oninput: () => { state.query = field.value; search(); } });
  const element = h("div", {},
    h("div", { class: "controls" }, field, h("label", {}, "show ", filter), h("label", {}, "of ", picker), page.runs.length > 1 ? chooser("by ", page.runs.map((run) => run.label), state.run, (run) => { state.run = run; const keep = state.chosen; search(); choose(found.includes(keep) ? keep : found[0] ?? -1); }) : null, number),
    skeletonLegend(page.layout), h("div", { class: "browser" }, list, player));
  return {
    element,
    start: () => { search(); if (!found.length && state.filter) { state.filter = 0; filter.value = 0; search(); } },
    step,
    toggle: () => { state.playing = !state.playing; moved(); },
    seek: (by) => { const strip = page.shown[pictured.get(state.chosen)]; if (strip) { state.playing = false; state.frame = (state.frame + by + strip.count) % strip.count; moved(); } },
    open: (clip) => { state.filter = 0; filter.value = 0; state.label = -1; picker.value = -1; state.query = field.value = ""; search(); choose(clip, true); element.scrollIntoView({ block: "start" }); },
    only: (label, wrong) => { state.filter = wrong && page.runs.length ? 1 : 0; filter.value = state.filter; state.label = label; picker.value = label; state.query = field.value = ""; search(); element.scrollIntoView({ block: "start" }); },
  };
}
