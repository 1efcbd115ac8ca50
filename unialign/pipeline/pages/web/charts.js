// Drawings in SVG: rows with their intervals, changes of classes, curves of epochs, the map of clips.

// Lines of a label that fit a width of about `most` letters.
function folded(text, most) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if ((lines[lines.length - 1] + " " + word).trim().length > most && lines[lines.length - 1]) lines.push("");
    lines[lines.length - 1] = (lines[lines.length - 1] + " " + word).trim();
  }
  return lines.map((line) => (line.length > most ? line.slice(0, Math.floor(most) - 1) + "…" : line)).slice(0, 2);
}
function labelled(text, x, y, most) {
  const lines = folded(text, most);
  return s("text", { x, y: y - 7 * (lines.length - 1), "text-anchor": "end" }, s("title", {}, text), lines.map((line, place) => s("tspan", { x, dy: place ? 14 : 4 }, line)));
}
const whisker = (x1, x2, y, stroke, size = 4) => Number.isNaN(x1 + x2) ? null : [
  s("line", { x1, x2, y1: y, y2: y, stroke, "stroke-width": 1.6 }),
  [x1, x2].map((x) => s("line", { x1: x, x2: x, y1: y - size, y2: y + size, stroke, "stroke-width": 1.6 })),
];
const diamond = (x, y, size = 6) => s("path", { d: `M${x - size} ${y}L${x} ${y - size}L${x + size} ${y}L${x} ${y + size}Z`, fill: "var(--fourth)" });

// A drawing as wide as its place, drawn anew when that changes: letters keep their size on a phone.
function fluid(build) {
  const place = h("div", {});
  let last = 0;
  const draw = () => {
    const width = Math.round(Math.min(900, document.getElementById("page").clientWidth - 24));
    if (width !== last && width > 0) put(place, build((last = width), width < 600 ? 128 : 235));
  };
  redrawn.add(draw);
  draw();
  return place;
}

// Accuracy of rows: a bar for the mean, a dot and an interval per seed; baselines as diamonds.
function rowsChart(rows, baselines, width, left) {
  const right = 62, gap = 14;
  const span = (x) => (x === null ? NaN : left + x * (width - left - right));
  let y = 10;
  const parts = [];
  for (const row of rows) {
    const tall = Math.max(26, 12 * row.seeds.length + 8), middle = y + tall / 2;
    if (row.mean !== null) parts.push(s("rect", { x: span(0), y, width: Math.max(1, span(row.mean) - span(0)), height: tall, fill: "var(--bar)", rx: 2 }));
    row.seeds.forEach((seed, place) => {
      const at = y + (tall * (place + 0.5)) / row.seeds.length;
      parts.push(whisker(span(seed.low), span(seed.high), at, "var(--main)", 3), s("circle", { cx: span(seed.top1), cy: at, r: 4, fill: "var(--main)" }, s("title", {}, `seed ${seed.seed}: ${percent(seed.top1)} [${percent(seed.low)}, ${percent(seed.high)}]`)));
    });
    parts.push(labelled(row.name, left - 12, middle, left / 7), s("text", { x: width - 4, y: middle + 5, "text-anchor": "end", "font-weight": 600 }, percent(row.mean)));
    y += tall + gap;
  }
  for (const row of baselines) {
    parts.push(labelled(row.name, left - 12, y + 11, left / 7), whisker(span(row.low), span(row.high), y + 11, "var(--fourth)"), diamond(span(row.top1), y + 11), s("text", { x: width - 4, y: y + 16, "text-anchor": "end" }, percent(row.top1)));
    y += 34;
  }
  const grid = [0, 0.25, 0.5, 0.75, 1].map((x) => [s("line", { x1: span(x), x2: span(x), y1: 4, y2: y, stroke: "var(--line)" }), s("text", { x: span(x), y: y + 17, "text-anchor": "middle", class: "soft" }, 100 * x)]);
  return s("svg", { viewBox: `0 0 ${width} ${y + 40}`, role: "img", "aria-label": "Top-1 of each row" }, grid, parts, s("text", { x: (left + width - right) / 2, y: y + 34, "text-anchor": "middle", class: "soft" }, "top-1, percent of the test clips"));
}

// Differences from the first row, with their intervals.
function changeChart(rows, width, left) {
  const right = 62, tall = 34;
  const ends = rows.flatMap((row) => [row.change, row.low ?? row.change, row.high ?? row.change]);
  const most = Math.max(0.01, ...ends.map(Math.abs)) * 1.08;
  const low = Math.min(0, ...ends) < 0 ? -most : 0, high = Math.max(0, ...ends) > 0 ? most : 0;
  const span = (x) => left + ((x - low) / (high - low || 1)) * (width - left - right);
  const y = (place) => 20 + tall * place;
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1].find((each) => (high - low) / each <= (width < 600 ? 4 : 7)) || 1;
  const ticks = [];
  for (let tick = Math.ceil(low / step); tick * step <= high; tick++) ticks.push(tick * step);
  return s("svg", { viewBox: `0 0 ${width} ${rows.length * tall + 44}`, role: "img", "aria-label": "Change of each row" },
    ticks.map((tick) => [s("line", { x1: span(tick), x2: span(tick), y1: 2, y2: rows.length * tall + 6, stroke: tick ? "var(--line)" : "var(--soft)", "stroke-dasharray": tick ? null : "4 3" }), s("text", { x: span(tick), y: rows.length * tall + 22, "text-anchor": "middle", class: "soft" }, signed(tick, 0))]),
    rows.map((row, place) => [
      labelled(row.name, left - 12, y(place), left / 7),
      row.low === null ? null : whisker(span(row.low), span(row.high), y(place), "var(--second)", 6),
      s("circle", { cx: span(row.change), cy: y(place), r: 5, fill: "var(--second)" }),
      s("text", { x: width - 4, y: y(place) + 5, "text-anchor": "end", "font-weight": 600 }, signed(row.change)),
    ]),
    s("text", { x: (left + width - right) / 2, y: rows.length * tall + 40, "text-anchor": "middle", class: "soft" }, "change of top-1 from the first row, points"));
}

// Accuracy of classes in two rows: a line from the first to the second; of one row: a dot.
function classChart(entries, one, pick, width, left) {
  const right = 96, tall = left < 200 ? 34 : 25;
  const span = (x) => (x === null ? NaN : left + x * (width - left - right));
  const bottom = entries.length * tall + 12;
  return s("svg", { viewBox: `0 0 ${width} ${bottom + 36}`, role: "img", "aria-label": "Accuracy by class in two rows" },
    [0, 0.25, 0.5, 0.75, 1].map((x) => [s("line", { x1: span(x), x2: span(x), y1: 2, y2: bottom, stroke: "var(--line)" }), s("text", { x: span(x), y: bottom + 16, "text-anchor": "middle", class: "soft" }, 100 * x)]),
    entries.map((entry, place) => {
      const y = 16 + tall * place, tone = entry.second < entry.first ? "var(--wrong)" : "var(--right)";
      return s("g", { style: "cursor:pointer", onclick: () => pick(entry.label) }, s("rect", { x: 0, y: y - tall / 2, width, height: tall, fill: "transparent" }), labelled(entry.name, left - 12, y, left / 7),
        s("line", { x1: span(entry.first), x2: span(entry.second), y1: y, y2: y, stroke: tone, "stroke-width": 4 }),
        s("circle", { cx: span(entry.first), cy: y, r: 5, fill: "var(--back)", stroke: tone, "stroke-width": 2 }),
        s("circle", { cx: span(entry.second), cy: y, r: 5.5, fill: tone }),
        s("text", { x: width - 4, y: y + 5, "text-anchor": "end" }, `${one ? percent(entry.second, 0) : signed(entry.second - entry.first, 0)} (n = ${entry.samples})`));
    }),
    s("text", { x: (left + width - right) / 2, y: bottom + 33, "text-anchor": "middle", class: "soft" }, "accuracy in the class, percent"));
}

// The next number that looks round, as its half does.
function rounded(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.4, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.999) * power;
}

// Values of epochs as lines. series: [{name, values, color, dashed}]; null is a gap.
function curves(series, title, unit, format) {
  const width = 430, height = 200, left = 56, bottom = 34;
  const all = series.flatMap((each) => each.values).filter((value) => value !== null);
  if (!all.length) return null;
  const high = rounded(Math.max(...all) || 1), count = Math.max(...series.map((each) => each.values.length));
  const x = (place) => left + (count < 2 ? 0.5 : place / (count - 1)) * (width - left - 12), y = (value) => height - bottom - (value / high) * (height - bottom - 26);
  return s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title },
    s("text", { x: 4, y: 14, "font-weight": 600 }, title),
    [0, 0.5, 1].map((share) => [s("line", { x1: left, x2: width - 12, y1: y(share * high), y2: y(share * high), stroke: "var(--line)" }), s("text", { x: left - 7, y: y(share * high) + 4, "text-anchor": "end", class: "soft" }, format(share * high))]),
    series.map((each) => s("polyline", { fill: "none", stroke: each.color, "stroke-width": 1.6, "stroke-dasharray": each.dashed || null, points: each.values.map((value, place) => (value === null ? "" : `${x(place).toFixed(1)},${y(value).toFixed(1)}`)).join(" ") }, s("title", {}, each.name))),
    // A line of a single point is none: such as val, if it is measured after the last epoch alone.
    series.map((each) => each.values.filter((value) => value !== null).length > 1 ? null : each.values.map((value, place) => value === null ? null : s("circle", { cx: x(place), cy: y(value), r: 4, fill: each.color }, s("title", {}, `${each.name}: ${format(value)}`)))),
    s("text", { x: left, y: height - 14, class: "soft" }, "epoch 1"), s("text", { x: width - 12, y: height - 14, "text-anchor": "end", class: "soft" }, `epoch ${count}`),
    s("text", { x: (width + left) / 2, y: height - 14, "text-anchor": "middle", class: "soft" }, unit));
}

// A square of shades (size x size, values 0 to 255), a box around each group, names beside it where they fit.
function heatMap(size, valueAt, names, boxes, tell, pick) {
  // As wide as its names and cells of 64 pixels, up to 720: four classes do not fill a page.
  const named = size <= 45, margin = named ? Math.min(190, 24 + 7.2 * Math.max(...names.map((name) => name.length))) : 0;
  const widest = Math.min(720, margin + 64 * size);
  const canvas = h("canvas", { style: `width:100%;max-width:${widest}px`, tabindex: 0, role: "img", "aria-label": "A table of shades; the classes stand in the same order on both sides" });
  let cell = 1;
  function draw() {
    const width = Math.min(widest, canvas.clientWidth || canvas.parentElement?.clientWidth || widest), edge = named ? Math.min(margin, width * 0.3) : 0;
    cell = (width - edge) / size;
    const pen = sized(canvas, width, width);
    canvas.style.height = width + "px";
    canvas.dataset.edge = edge;
    const tone = color("shade"), text = color("text"), back = color("back");
    pen.fillStyle = back; pen.fillRect(0, 0, width, width);
    for (let row = 0; row < size; row++) for (let column = 0; column < size; column++) {
      const value = valueAt(row, column);
      if (!value) continue;
      pen.fillStyle = `rgba(${tone},${Math.max(0.06, value / 255)})`;
      pen.fillRect(edge + column * cell, edge + row * cell, Math.max(cell, 0.7), Math.max(cell, 0.7));
    }
    pen.strokeStyle = color("soft"); pen.lineWidth = 0.8;
    pen.strokeRect(edge, edge, size * cell, size * cell);
    pen.strokeStyle = color("second"); pen.lineWidth = 1.5;
    for (const [start, count] of boxes) if (count * cell > 6) pen.strokeRect(edge + start * cell, edge + start * cell, count * cell, count * cell);
    if (!edge) return;
    pen.fillStyle = text; pen.textBaseline = "middle";
    pen.font = `${Math.min(12.5, cell * 0.8)}px system-ui, sans-serif`;
    names.forEach((name, place) => {
      let short = name;
      while (short.length > 2 && pen.measureText(short).width > edge - 10) short = short.slice(0, -2) + "…";
      const at = edge + (place + 0.5) * cell;
      pen.textAlign = "right"; pen.fillText(short, edge - 6, at);
      pen.save(); pen.translate(at, edge - 6); pen.rotate(-Math.PI / 2); pen.textAlign = "left"; pen.fillText(short, 0, 0); pen.restore();
    });
  }
  const place = (event) => {
    const box = canvas.getBoundingClientRect(), edge = Number(canvas.dataset.edge || 0);
    const [column, row] = [event.clientX - box.left, event.clientY - box.top].map((at) => Math.floor((at - edge) / cell));
    return row >= 0 && column >= 0 && row < size && column < size ? [row, column] : null;
  };
  canvas.addEventListener("pointermove", (event) => { const at = place(event); at ? showTip(event, tell(...at)) : hideTip(); });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("click", (event) => { const at = place(event); if (at && pick) pick(...at); });
  redrawn.add(draw);
  queueMicrotask(draw);
  return { canvas, draw };
}
