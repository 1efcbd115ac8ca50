// The sections of a page, each a function from its content to an element; null where a page has nothing for it.

function section(id, title, ...children) {
  return h("section", { id, "aria-labelledby": id + "-title" }, h("h2", { id: id + "-title" }, title), children);
}

function opening(page) {
  return [
    h("h1", {}, page.title), h("p", { class: "soft" }, page.subtitle),
    page.verdict.length ? h("div", { class: "verdict" }, page.verdict.map((sentence) => h("p", {}, sentence))) : null,
    h("div", { class: "cards" }, page.cards.map(([name, value, note]) => h("div", { class: "card" }, h("span", { class: "soft" }, name), h("b", {}, value), h("small", { class: "soft" }, note)))),
  ];
}

function claims(page) {
  return page.claims.length ? section("claims", "What the numbers may claim", h("ul", { class: "claims" }, page.claims.map((sentence) => h("li", {}, sentence)))) : null;
}

function rowsSection(page) {
  if (!page.rows.length) return null;
  const changed = page.rows.filter((row) => row.change !== null && row !== page.rows[0]);
  return section("rows", page.rows.length > 1 ? "Rows, seeds and simple baselines" : "Result and simple baselines",
    h("figure", {}, fluid((width, left) => rowsChart(page.rows, page.baselines, width, left)),
      legend([s("rect", { y: 2, width: 26, height: 10, fill: "var(--bar)" }), "mean over the seeds"], [[whisker(3, 23, 7, "var(--main)", 3), s("circle", { cx: 13, cy: 7, r: 3.5, fill: "var(--main)" })], "one seed, with its 95 % interval over test clips (Wilson)"], page.baselines.length ? [[whisker(1, 25, 7, "var(--fourth)", 3), diamond(13, 7, 5)], "simple baseline on the same features, same interval"] : [null, ""])),
    changed.length ? h("figure", {}, fluid((width, left) => changeChart(changed, width, left)), legend([[whisker(2, 24, 7, "var(--second)"), s("circle", { cx: 13, cy: 7, r: 4, fill: "var(--second)" })], `paired difference from “${page.rows[0].name}”, with a 95 % bootstrap interval over ${page.over || "samples"}`])) : null,
    table(page.table.head, page.table.rows));
}

// Counts of right answers by class, for a row: over all its runs.
function classCounts(page, row) {
  const runs = [...page.runs.keys()].filter((run) => page.runs[run].row === row), count = page.classes.length;
  const right = new Float64Array(count), samples = new Float64Array(count);
  page.clips.labels.forEach((label, clip) => { samples[label]++; for (const run of runs) if (page.clips.predicted[run][clip] === label) right[label] += 1 / runs.length; });
  return { right, samples };
}

function classSection(page, browser) {
  if (!page.runs.length) return null;
  const names = page.rows.map((row) => row.name), cached = new Map();
  const counts = (row) => { if (!cached.has(row)) cached.set(row, classCounts(page, row)); return cached.get(row); };
  const state = { first: 0, second: page.runs[page.main].row || names.length - 1, all: false };
  const place = h("div", {});
  const many = 24;
  function show() {
    const [first, second] = [counts(state.first), counts(state.second)];
    let entries = page.classes.map((name, label) => ({ name, label, samples: first.samples[label], first: first.right[label] / first.samples[label], second: second.right[label] / second.samples[label] })).filter((entry) => entry.samples);
    const better = entries.filter((entry) => entry.second > entry.first + 1e-9).length, worse = entries.filter((entry) => entry.second < entry.first - 1e-9).length, one = names.length < 2 || state.first === state.second;
    entries.sort((left, right) => (one ? left.second - right.second : right.second - right.first - (left.second - left.first)) || left.label - right.label);
    const cut = !state.all && entries.length > many ? entries.length - many : 0;
    if (cut) entries = one ? entries.slice(0, many) : [...entries.slice(0, many / 2), ...entries.slice(-many / 2)];
    const fewest = Math.min(...entries.map((entry) => entry.samples));
    put(place,
      one ? h("p", {}, "Accuracy of each class, the lowest first.") : h("p", {}, `“${names[state.second]}” against “${names[state.first]}”: ${better} classes better, ${worse} worse, ${page.classes.length - better - worse} the same. Means over the seeds; a class has ${fewest} test clips or more, so one clip is up to ${(100 / fewest).toFixed(0)} points of its class.`),
      h("figure", {}, fluid((width, left) => classChart(entries, one, (label) => browser.only(label, true), width, left)), one ? null : legend([s("circle", { cx: 13, cy: 7, r: 5, fill: "none", stroke: "var(--right)", "stroke-width": 2 }), names[state.first]], [s("circle", { cx: 13, cy: 7, r: 5, fill: "var(--right)" }), `${names[state.second]}, better`], [s("circle", { cx: 13, cy: 7, r: 5, fill: "var(--wrong)" }), "worse"])),
      cut ? h("button", { class: "noprint", onclick: () => { state.all = true; show(); } }, `show ${cut} more classes`) : null);
  }
  show();
  return section("classes", names.length > 1 ? "Change of each class" : "Each class",
    names.length > 1 ? h("div", { class: "controls" }, chooser("from ", names, state.first, (row) => { state.first = row; show(); }), chooser("to ", names, state.second, (row) => { state.second = row; show(); })) : null, place,
    h("p", { class: "soft noprint" }, "A click on a class lists its wrong clips below."));
}

function confusionSection(page, browser) {
  if (!page.runs.length) return null;
  const count = page.classes.length, order = page.order, { labels, predicted } = page.clips;
  let row = page.runs[page.main].row, counts = null, totals = null;
  function tally() {
    counts = new Float64Array(count * count); totals = new Float64Array(count);
    page.runs.forEach((run, place) => { if (run.row === row) labels.forEach((label, clip) => { counts[label * count + predicted[place][clip]]++; totals[label]++; }); });
  }
  tally();
  const share = (label, guess) => (totals[label] ? counts[label * count + guess] / totals[label] : 0);
  const seeds = () => page.runs.filter((run) => run.row === row).length;
  const map = heatMap(count, (first, second) => 255 * Math.sqrt(share(order[first], order[second])), order.map((label) => page.classes[label]), page.boxes,
    (first, second) => { const [label, guess] = [order[first], order[second]]; return `${page.classes[label]} → ${page.classes[guess]}: ${counts[label * count + guess]} of ${totals[label]} answers (${percent(share(label, guess), 0)} %)`; },
    (first) => browser.only(order[first], true));
  return section("confusion", "Confusion",
    page.rows.length > 1 ? h("div", { class: "controls" }, chooser("row ", page.rows.map((each) => each.name), row, (chosen) => { row = chosen; tally(); map.draw(); })) : null,
    h("figure", {}, map.canvas, h("figcaption", {}, `Rows: true class; columns: answer; the color grows with the square root of the share of the class, so that rare answers show (over ${counted(seeds(), "seed")}). Classes that are taken for each other stand together, with a box around each such group; the groups were found in the answers of “${page.rows[page.runs[page.main].row].name}”.`)),
    page.pairs.length ? [h("h3", {}, `Most frequent confusions of ${page.runs[page.main].label}`), h("div", { class: "pairs" }, page.pairs.map((pair) => h("div", { class: "pair" },
      h("b", {}, page.classes[pair.true]), " taken for ", h("b", {}, page.classes[pair.predicted]), h("small", { class: "soft" }, `${counted(pair.samples, "clip")}, ${percent(pair.share, 0)} % of its class`),
      h("div", { class: "two" }, pairHalf(page, browser, pair.wrong, "wrong"), pairHalf(page, browser, pair.right, "right")))))] : null);
}
function pairHalf(page, browser, place, kind) {
  if (place === null || place === undefined) return h("small", { class: "soft" }, kind === "right" ? "No clip of that class was answered correctly, or its frames are not here." : "Its frames are not here.");
  const clip = page.shown[place], answer = page.clips.predicted[page.main][clip.clip], sure = percent(page.clips.confidence[page.main][clip.clip] / 255, 0);
  return h("div", {}, smallFilm(clip, page.layout, () => browser.open(clip.clip)), h("small", { class: kind }, `${kind === "wrong" ? "✗ taken for" : "✓ rightly"} ${page.classes[answer]} (${sure} %)`), h("small", { class: "soft name", title: page.clips.ids[clip.clip] }, page.clips.ids[clip.clip]));
}

function clipSection(page, browser) {
  return page.clips.ids.length ? section("clips", page.runs.length ? "Test clips" : "Samples", page.chosen ? h("p", { class: "soft" }, page.chosen) : null, browser.element) : null;
}

// A point per clip in two dimensions.
function mapSection(page, browser) {
  if (!page.map) return null;
  const { views, clips } = page.map, canvas = h("canvas", { style: "width:100%;max-width:900px;cursor:crosshair", role: "img", "aria-label": "Map of features" });
  let view = 0, label = -1, size = 600, reach = [];
  const labels = page.clips.labels, wrong = (clip) => page.runs.length && page.clips.predicted[page.main][clip] !== labels[clip];
  function draw() {
    size = Math.min(900, canvas.clientWidth || 900);
    const tall = size * 0.66, pen = sized(canvas, size, tall);
    canvas.style.height = tall + "px";
    pen.clearRect(0, 0, size, size);
    const points = views[view].points;
    reach = clips.map((clip, place) => [12 + points[2 * place] * (size - 24), 12 + points[2 * place + 1] * (tall - 52)]);
    const radius = clips.length > 500 ? 2.6 : 4.2;
    const order = [...clips.keys()].sort((first, second) => (labels[clips[first]] === label) - (labels[clips[second]] === label));
    for (const place of order) {
      const clip = clips[place], [x, y] = reach[place], mine = labels[clip] === label;
      pen.globalAlpha = label < 0 || mine ? 0.9 : 0.22;
      pen.fillStyle = pen.strokeStyle = mine ? color("mark") : color(wrong(clip) ? "wrong" : "right");
      pen.lineWidth = 1.8;
      pen.beginPath();
      if (wrong(clip)) { pen.moveTo(x - radius, y - radius); pen.lineTo(x + radius, y + radius); pen.moveTo(x + radius, y - radius); pen.lineTo(x - radius, y + radius); pen.stroke(); }
      else { pen.arc(x, y, radius, 0, 7); pen.fill(); }
    }
    pen.globalAlpha = 1;
    if (label < 0 && page.classes.length <= 40) {
      pen.font = "12px system-ui, sans-serif"; pen.textAlign = "center"; pen.lineWidth = 4; pen.strokeStyle = color("back"); pen.fillStyle = color("text");
      const taken = [];
      page.classes.forEach((name, at) => {
        const mine = reach.filter((_, place) => labels[clips[place]] === at);
        if (!mine.length) return;
        let [x, y] = [0, 1].map((axis) => [...mine.map((point) => point[axis])].sort((one, two) => one - two)[mine.length >> 1]);
        const short = name.length > 26 ? name.slice(0, 25) + "…" : name, half = pen.measureText(short).width / 2;
        x = Math.min(Math.max(x, half + 4), size - half - 4);
        y += 22;
        while (taken.some(([left, right, line]) => left < x + half && right > x - half && Math.abs(line - y) < 14)) y += 14;
        taken.push([x - half, x + half, y]);
        pen.strokeText(short, x, y); pen.fillText(short, x, y);
      });
    }
  }
  const nearest = (event) => {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = -1, far = 144;
    reach.forEach(([left, top], place) => { const way = (left - x) ** 2 + (top - y) ** 2; if (way < far) [best, far] = [place, way]; });
    return best;
  };
  canvas.addEventListener("pointermove", (event) => { const at = nearest(event); at < 0 ? hideTip() : showTip(event, `${page.clips.ids[clips[at]]}: ${page.classes[labels[clips[at]]]}${wrong(clips[at]) ? ", taken for " + page.classes[page.clips.predicted[page.main][clips[at]]] : ""}`); });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("click", (event) => { const at = nearest(event); if (at >= 0) browser.open(clips[at]); });
  redrawn.add(draw);
  queueMicrotask(draw);
  const picker = h("select", { onchange: () => { label = Number(picker.value); draw(); } }, h("option", { value: -1 }, "none"), page.classes.map((name, at) => h("option", { value: at }, name)));
  return section("map", "Map of the features",
    h("div", { class: "controls" }, chooser("map ", views.map((each) => each.name), 0, (chosen) => { view = chosen; draw(); }), h("label", {}, "highlight ", picker)),
    h("figure", {}, canvas, page.runs.length ? legend([s("circle", { cx: 13, cy: 7, r: 4, fill: "var(--right)" }), `${page.runs[page.main].label} is right`], [s("path", { d: "M9 3L17 11M17 3L9 11", stroke: "var(--wrong)", "stroke-width": 2 }), "wrong"], [s("circle", { cx: 13, cy: 7, r: 4, fill: "var(--mark)" }), "the highlighted class"]) : null, h("figcaption", {}, page.map.note)));
}

function textSection(page) {
  if (!page.texts) return null;
  const { similarity, low, high, nearest, note } = page.texts, count = page.classes.length, order = page.order;
  const value = (first, second) => similarity[order[first] * count + order[second]];
  const map = heatMap(count, value, order.map((label) => page.classes[label]), page.boxes, (first, second) => `${page.classes[order[first]]} and ${page.classes[order[second]]}: cosine ${(low + (value(first, second) / 255) * (high - low)).toFixed(2)}`);
  return section("texts", "Class texts", h("div", { class: "halves" }, h("figure", {}, map.canvas, h("figcaption", {}, note)),
    h("div", {}, h("h3", {}, "Most similar texts"), table(["class", "nearest class", "cosine"], nearest.map(([first, second, cosine]) => [page.classes[first], page.classes[second], cosine.toFixed(3)]), { left: true }))));
}

function coverageSection(page) {
  if (!page.coverage) return null;
  const { stores, samples, note } = page.coverage, lacking = stores.some((store) => store.lacking.some((each) => each));
  const by = page.order.map((label) => ({ cells: [page.classes[label], String(samples[label]), ...stores.map((store) => { const words = Object.entries(store.by_status).filter(([name, counts]) => name !== "ok" && counts[label]).map(([name, counts]) => `${counts[label]} ${name}`); return words.length ? h("span", { class: "wrong" }, `${samples[label] - store.lacking[label]} (${words.join(", ")})`) : `${samples[label]}`; })] }));
  const whole = stores.map((store) => [`${store.name}: ${store.store}`, samples.reduce((sum, each) => sum + each, 0) - store.lacking.reduce((sum, each) => sum + each, 0)]);
  const total = samples.reduce((sum, each) => sum + each, 0);
  return section("coverage", "Coverage and quarantine", h("p", {}, note),
    bars(whole.map(([name, number]) => [name, number, `${percent(number / (total || 1))} %`]), total || 1),
    h("details", { open: lacking && page.classes.length <= 40 }, h("summary", {}, "By class"), table(["class", "samples", ...stores.map((store) => store.name)], by)));
}

function speedSection(page) {
  if (!page.speed) return null;
  const hues = ["var(--main)", "var(--second)", "var(--third)", "var(--fourth)", "var(--soft)"], dashes = [null, "6 3", "2 3", "8 3 2 3"];
  const series = (name) => page.speed.curves.map((each) => ({ name: each.label, values: each[name] || [], color: hues[each.row % hues.length], dashed: dashes[Math.floor(each.row / hues.length) % dashes.length] })).filter((each) => each.values.some((value) => value !== null));
  const charts = [curves(series("clips"), "Training clips per second", "", (value) => value.toFixed(0)), curves(series("wait"), "Share of time waiting for data", "", (value) => percent(value, 0) + " %"), curves(series("loss"), "Loss", "", (value) => value.toFixed(2)), curves(series("val"), "Top-1 on val", "", (value) => percent(value, 0) + " %")].filter(Boolean);
  return section("speed", "Throughput and data wait", h("div", { class: "halves" }, charts.map((chart) => h("figure", {}, chart))),
    legend(...page.rows.map((row, place) => [s("line", { x1: 2, x2: 24, y1: 7, y2: 7, stroke: hues[place % hues.length], "stroke-width": 2, "stroke-dasharray": dashes[Math.floor(place / hues.length) % dashes.length] }), row.name])),
    h("p", { class: "soft" }, page.speed.note), table(page.speed.table.head, page.speed.table.rows));
}

function provenanceSection(page) {
  return section("provenance", "Provenance", page.provenance.map((part) => h("details", { open: part.open }, h("summary", {}, part.title), part.fields ? fields(part.fields) : null, part.table ? table(part.table.head, part.table.rows, { left: true }) : null)));
}
