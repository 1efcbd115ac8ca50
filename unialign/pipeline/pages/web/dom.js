// Elements, numbers and colors. Text gets into the page through `append` and `setAttribute` alone, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined && child !== false) element.append(child);
  return element;
}
const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);
const s = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

const put = (element, ...children) => { element.replaceChildren(); return fill(element, null, children); };

const percent = (value, digits = 1) => (value === null || value === undefined || Number.isNaN(value) ? "-" : (100 * value).toFixed(digits));
const signed = (value, digits = 1) => {
  const text = (100 * value).toFixed(digits);
  return Number(text) > 0 ? "+" + text : Number(text) === 0 ? (0).toFixed(digits) : text;
};
const counted = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many || one + "s"}`;
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function bytesOf(text) {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let place = 0; place < raw.length; place++) out[place] = raw.charCodeAt(place);
  return out;
}
// Arrays are written as {"kind": "u8", "data": base64}, little-endian.
const KINDS = { u8: Uint8Array, u16: Uint16Array, i16: Int16Array, f32: Float32Array };
function unpacked(value) {
  if (Array.isArray(value)) return value.map(unpacked);
  if (value === null || typeof value !== "object") return value;
  if (value.kind in KINDS && typeof value.data === "string") return new KINDS[value.kind](bytesOf(value.data).buffer);
  for (const key of Object.keys(value)) value[key] = unpacked(value[key]);
  return value;
}
async function content(text) {
  const packed = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return unpacked(JSON.parse(await new Response(packed).text()));
}

// One note beside the pointer, for what has no room in a drawing.
const tip = h("div", { class: "tip", hidden: true });
function showTip(event, text) {
  tip.textContent = text;
  tip.hidden = !text;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
}
const hideTip = () => { tip.hidden = true; };

// A canvas in the pixels of the screen, redrawn when the theme or its width changes.
const redrawn = new Set();
function sized(canvas, width, height) {
  const scale = Math.min(3, devicePixelRatio || 1);
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  return pen;
}

function chooser(label, names, chosen, change) {
  const select = h("select", { onchange: () => change(Number(select.value)) }, names.map((name, place) => h("option", { value: place, selected: place === chosen }, name)));
  return h("label", {}, label, select);
}
function legend(...entries) {
  return h("div", { class: "keys" }, entries.map(([mark, text]) => h("span", {}, s("svg", { width: 26, height: 14, viewBox: "0 0 26 14", "aria-hidden": true }, mark), text)));
}
function table(head, rows, options = {}) {
  return h("div", { class: "scroll" }, h("table", { class: options.left ? "left" : null }, h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", { class: row.pick ? "pick" : null, tabindex: row.pick ? 0 : null, onclick: row.pick || null, onkeydown: row.pick ? (event) => { if (event.key === "Enter") row.pick(); } : () => {} }, (row.cells || row).map((cell) => h("td", {}, cell)))))));
}
function fields(pairs) {
  return h("dl", {}, pairs.map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
}
function bars(entries, most) {
  const top = most || Math.max(...entries.map(([, value]) => value), 1e-9);
  return h("div", { class: "bars" }, entries.map(([name, value, text, kind]) => [h("span", { title: name, class: kind || null }, name), h("i", { style: `width:${(100 * value) / top}%${kind ? `;background:var(--${kind})` : ""}` }), h("span", {}, text)]));
}
