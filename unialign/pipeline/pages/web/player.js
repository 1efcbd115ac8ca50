// Clips: a strip of frames, played on a canvas with the skeletons over it.

const MISSING = -32768, TENTHS = 16; // Coordinates are sixteenths of a pixel of the strip's frames.
const SIDES = { left: "#E69F00", right: "#56B4E9", "": "#FFFFFF" };
const OTHERS = ["", "#CC79A7", "#2FBF95", "#F0E442"]; // the second, third and fourth person
const RATE = 6; // frames per second

const films = new Map();
function imageOf(clip) {
  if (!clip.image) return Promise.resolve(null);
  if (!films.has(clip)) {
    films.set(clip, new Promise((resolve) => {
      const image = new Image();
      image.onload = () => resolve(image);
      image.onerror = () => resolve(null);
      image.src = clip.image;
    }));
  }
  return films.get(clip);
}

// One frame of a clip, over the whole canvas. Bones have a dark rim, so that they stand out from any picture.
function drawFrame(canvas, clip, image, frame, layout, wide) {
  const width = wide || canvas.clientWidth || 320, scale = width / clip.width, height = Math.round(clip.height * scale);
  canvas.style.aspectRatio = `${clip.width} / ${clip.height}`;
  const pen = sized(canvas, width, height);
  pen.fillStyle = "#101214";
  pen.fillRect(0, 0, width, height);
  if (image) {
    const column = frame % clip.columns, row = Math.floor(frame / clip.columns);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(image, column * clip.width, row * clip.height, clip.width, clip.height, 0, 0, width, height);
  }
  if (clip.people && layout) for (let person = clip.people.persons - 1; person >= 0; person--) drawPerson(pen, clip, frame, person, scale, layout);
}

function drawPerson(pen, clip, frame, person, scale, layout) {
  const { points, joints, persons, states } = clip.people, state = states[person][frame];
  if (state === " ") return;
  const base = (frame * persons + person) * joints * 2;
  const at = (joint) => (points[base + 2 * joint] === MISSING ? null : [(points[base + 2 * joint] * scale) / TENTHS, (points[base + 2 * joint + 1] * scale) / TENTHS]);
  const tone = (joint) => (person ? OTHERS[Math.min(person, 3)] : SIDES[layout.sides[joint] || ""]);
  const thick = Math.max(1.8, (pen.canvas.clientWidth || 320) / 130), lost = state === "-";
  pen.lineCap = "round";
  pen.globalAlpha = lost ? 0.75 : 1;
  pen.setLineDash(lost ? [thick * 1.5, thick * 2.2] : []);
  for (const rim of [true, false]) {
    for (const [child, parent] of layout.bones) {
      const [from, to] = [at(child), at(parent)];
      if (!from || !to) continue;
      pen.strokeStyle = rim ? "rgba(0,0,0,.75)" : tone(child);
      pen.lineWidth = rim ? thick + 2 : thick;
      pen.beginPath(); pen.moveTo(...from); pen.lineTo(...to); pen.stroke();
    }
    if (rim) continue;
    for (let joint = 0; joint < joints; joint++) {
      const where = at(joint);
      if (!where || lost) continue;
      pen.fillStyle = tone(joint);
      pen.beginPath(); pen.arc(...where, thick * 0.75, 0, 7); pen.fill();
    }
  }
  pen.setLineDash([]);
  pen.globalAlpha = 1;
  const note = { "-": "lost", "!": "jump" }[state];
  if (!note) return;
  const known = [...Array(joints).keys()].map(at).filter(Boolean);
  if (!known.length) return;
  const top = known.reduce((best, each) => (each[1] < best[1] ? each : best));
  pen.font = "600 13px system-ui, sans-serif"; pen.textAlign = "center"; pen.textBaseline = "bottom";
  pen.lineWidth = 3; pen.strokeStyle = "#000"; pen.fillStyle = "#fff";
  const spot = [Math.min(Math.max(top[0], 20), pen.canvas.clientWidth - 20), Math.max(16, top[1] - 5)];
  pen.strokeText(note, ...spot); pen.fillText(note, ...spot);
}

const stroke = (tone, dashed) => [s("rect", { width: 26, height: 14, rx: 3, fill: "#30353c" }), s("line", { x1: 4, x2: 22, y1: 7, y2: 7, stroke: tone, "stroke-width": 3, "stroke-dasharray": dashed ? "4 4" : null, "stroke-linecap": "round" })];
function skeletonLegend(layout) {
  if (!layout) return null;
  return legend([stroke(SIDES.left), "first person's own left"], [stroke(SIDES.right), "own right"], [stroke(SIDES[""]), "middle"], [[stroke(OTHERS[1]), stroke(OTHERS[2])].slice(0, 1), "other people"],
    [stroke("#fff", true), "lost: not found here; the pose of the last frame that has one"], [s("text", { x: 13, y: 11, "text-anchor": "middle", "font-weight": 600 }, "!"), "jump: the track moved by more than a body length at once; another person may have taken it over"]);
}

// All canvases that play at once, in step, while they are on the screen and nobody asked for less motion.
const playing = new Map();
let ticked = 0, beat = 0;
function play(canvas, show) { playing.set(canvas, show); }
function tick(time) {
  requestAnimationFrame(tick);
  if (time - ticked < 1000 / RATE) return;
  ticked = time;
  beat++;
  for (const [canvas, show] of playing) {
    if (!canvas.isConnected) { playing.delete(canvas); continue; }
    const box = canvas.getBoundingClientRect();
    if (box.bottom > 0 && box.top < innerHeight) show(beat);
  }
}
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

// A small clip that plays by itself. Returns its canvas.
function smallFilm(clip, layout, open, start = 0.4) {
  const canvas = h("canvas", { role: "button", tabindex: 0, "aria-label": "Open this clip", onclick: open, onkeydown: (event) => { if (event.key === "Enter") open(); } });
  canvas.style.aspectRatio = `${clip.width} / ${clip.height}`;
  const first = Math.floor(clip.count * start);
  let frame = first;
  imageOf(clip).then((image) => {
    const draw = () => drawFrame(canvas, clip, image, frame, layout);
    redrawn.add(draw);
    draw();
    if (!still && clip.count > 1) play(canvas, (now) => { frame = now % clip.count; draw(); });
  });
  return canvas;
}
