// The map of the collection: a point for each window, near where they are alike. The mouse or arrow keys choose, a click plays.

import { ask, by, clock, counted, make, posterOf } from "./parts.js";

const COLOURS = ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];
const NEAR = 14; // pixels within which a point counts as meant
const canvas = by("canvas");
const tip = by("tip");
const fingers = new Map();
let points = [];
let view = { scale: 1, x: 0, y: 0 };
let chosen = -1;
let found = new Map(); // row -> place among the results
let actions = {};
let loaded = "";
let names = new Map(); // folder -> number of its colour
let hidden = new Set(); // colours that the legend has switched off
let wanted = () => true; // of a point: whether the filters of the page let it pass
let dragged = 0;
let note = "";

export function setUp(given) {
  actions = given;
  by("colour").addEventListener("change", () => { hidden.clear(); legend(); draw(); });
  by("by").addEventListener("change", () => { loaded = ""; open(); });
  by("zoom-in").addEventListener("click", () => zoom(1.6));
  by("zoom-out").addEventListener("click", () => zoom(1 / 1.6));
  by("zoom-all").addEventListener("click", whole);
  canvas.addEventListener("pointermove", moved);
  canvas.addEventListener("pointerdown", (event) => {
    dragged = 0;
    fingers.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => fingers.size || choose(-1));
  canvas.addEventListener("click", (event) => {
    if (dragged > 6) return;
    choose(nearest(event.offsetX, event.offsetY));
    if (chosen >= 0) actions.play(points, chosen);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener("keydown", pressed);
  canvas.addEventListener("blur", () => choose(-1));
  new ResizeObserver(draw).observe(by("plane"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

// Loads the map where it is not there yet, and draws it.
export async function open() {
  const what = by("by").value;
  draw();
  if (loaded === what) return;
  by("map-note").textContent = "The map is being drawn …";
  try {
    const answer = await ask(`/api/map?by=${encodeURIComponent(what)}`);
    points = answer.points;
    loaded = what;
    note = answer.points.length < answer.of
      ? `${counted(answer.points.length, "moment", "moments")} of ${answer.of.toLocaleString("en")}, evenly spread`
      : counted(answer.points.length, "moment", "moments");
    note += ` · ${answer.method}`;
    names = new Map([...new Set(points.map((point) => point.folder))].sort().map((name, at) => [name, at]));
    by("colour").closest("label").hidden = names.size < 2;
    by("map-note").textContent = note;
    hidden.clear();
    legend();
    whole();
  } catch (error) {
    by("map-note").textContent = error.message;
  }
}

const isShown = (point) => !hidden.has(colourOf(point)) && wanted(point);

// What was found is drawn above the rest; what the filters leave out is not drawn.
export function mark(results, { folder = "", kind = "", shortest = 0, longest = Infinity } = {}) {
  wanted = (point) =>
    (!folder || `${point.in}/`.startsWith(`${folder}/`)) && (!kind || point.kind === kind) &&
    point.seconds >= Number(shortest) && point.seconds <= Number(longest);
  found = new Map();
  results.forEach((one, at) => {
    if (one.score === undefined) return;
    for (const [row] of [[one.row], ...(one.moments ?? [])]) if (!found.has(row)) found.set(row, at);
  });
  draw();
}

const colourOf = (point) =>
  by("colour").value === "folder" ? names.get(point.folder) : point.group;

function legend() {
  const folder = by("colour").value === "folder";
  const counts = new Map();
  for (const point of points) counts.set(colourOf(point), (counts.get(colourOf(point)) ?? 0) + 1);
  const called = (number) => (folder ? [...names.keys()][number] || "(top)" : `group ${number + 1}`);
  const most = [...counts].sort((a, b) => a[0] - b[0]).slice(0, 24);
  by("legend").replaceChildren(...most.map(([number, count]) => {
    const dot = make("i", { className: "dot" });
    dot.style.setProperty("--dot", `var(${number < COLOURS.length ? COLOURS[number] : "--c-rest"})`);
    const one = make("button", { type: "button", className: "quiet", "aria-pressed": "true" }, dot, called(number), make("span", { className: "soft" }, String(count)));
    one.addEventListener("click", () => {
      if (hidden.has(number)) hidden.delete(number);
      else hidden.add(number);
      one.setAttribute("aria-pressed", String(!hidden.has(number)));
      draw();
    });
    return make("li", {}, one);
  }));
}

// A colour of the style as a canvas takes it: light or dark is chosen where it is used as a colour.
const probe = make("span", { hidden: true });
by("plane").append(probe);
function resolved(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

const side = () => Math.min(canvas.clientWidth, canvas.clientHeight) - 60;
const placeOf = (point) => [
  canvas.clientWidth / 2 + (point.x - 0.5) * side() * view.scale + view.x,
  canvas.clientHeight / 2 + (point.y - 0.5) * side() * view.scale + view.y,
];

function draw() {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width || !height) return;
  const ratio = devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  const colours = COLOURS.map(resolved);
  const rest = resolved("--c-rest");
  pen.scale(ratio, ratio);
  pen.clearRect(0, 0, width, height);
  const radius = Math.max(2.5, Math.min(7, 90 / Math.sqrt(points.length + 1))) * Math.min(2, Math.sqrt(view.scale));
  const paint = (point, size, alpha) => {
    const [x, y] = placeOf(point);
    if (x < -20 || y < -20 || x > width + 20 || y > height + 20) return;
    pen.globalAlpha = alpha;
    pen.fillStyle = colours[colourOf(point)] ?? rest;
    pen.beginPath();
    pen.arc(x, y, size, 0, 2 * Math.PI);
    pen.fill();
  };
  const shown = points.filter(isShown);
  for (const point of shown) if (!found.has(point.row)) paint(point, radius, found.size ? 0.22 : 0.82);
  pen.strokeStyle = resolved("--ink");
  pen.lineWidth = 1.5;
  for (const point of shown) {
    if (!found.has(point.row)) continue;
    const place = found.get(point.row);
    paint(point, radius * (place < 3 ? 1.9 : place < 12 ? 1.5 : 1.15), 1);
    if (place < 12) pen.stroke();
  }
  if (chosen >= 0 && points[chosen]) {
    paint(points[chosen], radius * 1.8, 1);
    pen.lineWidth = 2.5;
    pen.stroke();
  }
  pen.globalAlpha = 1;
}

function nearest(x, y) {
  let best = -1;
  let least = NEAR ** 2;
  points.forEach((point, at) => {
    if (!isShown(point)) return;
    const [px, py] = placeOf(point);
    const far = (px - x) ** 2 + (py - y) ** 2;
    if (far < least) [best, least] = [at, far];
  });
  return best;
}

function choose(at) {
  if (at === chosen) return;
  chosen = at;
  tip.hidden = at < 0;
  if (at >= 0) {
    const point = points[at];
    const time = point.kind === "image" ? "" : `${clock(point.start)} – ${clock(point.end)}`;
    tip.replaceChildren(
      ...(point.kind === "audio" ? [] : [make("img", { alt: "", src: posterOf(point) })]),
      make("b", {}, point.name),
      make("span", {}, [point.folder, time].filter(Boolean).join(" · ")),
    );
    const [x, y] = placeOf(point);
    tip.style.left = `${Math.max(4, Math.min(x + 14, canvas.clientWidth - 196))}px`;
    tip.style.top = `${y > canvas.clientHeight / 2 ? Math.max(4, y - 176) : y + 14}px`;
  }
  canvas.classList.toggle("pointing", at >= 0);
  draw();
}

function moved(event) {
  const before = fingers.get(event.pointerId);
  if (!before) {
    choose(nearest(event.offsetX, event.offsetY));
    return;
  }
  const others = [...fingers.values()].filter((one) => one.pointerId !== event.pointerId);
  if (others.length) {
    const far = (one) => Math.hypot(one.offsetX - others[0].offsetX, one.offsetY - others[0].offsetY);
    zoom(far(event) / Math.max(1, far(before)), others[0].offsetX, others[0].offsetY);
  } else {
    view.x += event.offsetX - before.offsetX;
    view.y += event.offsetY - before.offsetY;
  }
  dragged += Math.abs(event.offsetX - before.offsetX) + Math.abs(event.offsetY - before.offsetY);
  fingers.set(event.pointerId, event);
  if (dragged > 6) choose(-1);
  draw();
}

function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const scale = Math.max(0.5, Math.min(60, view.scale * factor));
  const by = scale / view.scale;
  const [middleX, middleY] = [canvas.clientWidth / 2, canvas.clientHeight / 2];
  view = { scale, x: (view.x + middleX - x) * by + x - middleX, y: (view.y + middleY - y) * by + y - middleY };
  choose(-1);
  draw();
}

function whole() {
  view = { scale: 1, x: 0, y: 0 };
  choose(-1);
  draw();
}

function pressed(event) {
  const turns = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (turns) {
    const at = next(...turns);
    if (at >= 0) show(points[at]);
    choose(at);
  }
  else if (event.key === "Enter" && chosen >= 0) actions.play(points, chosen);
  else if (event.key.toLowerCase() === "l" && chosen >= 0) actions.alike(points[chosen]);
  else if (event.key === "+") zoom(1.6);
  else if (event.key === "-") zoom(1 / 1.6);
  else return;
  event.preventDefault();
  event.stopPropagation();
}

// Moves the map so far that a point lies on it.
function show(point) {
  const [x, y] = placeOf(point);
  view.x += Math.max(0, 40 - x) - Math.max(0, x - canvas.clientWidth + 40);
  view.y += Math.max(0, 40 - y) - Math.max(0, y - canvas.clientHeight + 40);
}

// The nearest point in a direction, as far as it lies there more than aside.
function next(toX, toY) {
  if (chosen < 0) return nearestToMiddle();
  const [x, y] = placeOf(points[chosen]);
  let best = chosen;
  let least = Infinity;
  points.forEach((point, at) => {
    if (!isShown(point)) return;
    const [px, py] = placeOf(point);
    const ahead = (px - x) * toX + (py - y) * toY;
    const aside = Math.abs((px - x) * toY) + Math.abs((py - y) * toX);
    if (ahead > 0.5 && aside <= ahead && ahead + 2 * aside < least) [best, least] = [at, ahead + 2 * aside];
  });
  return best;
}

function nearestToMiddle() {
  const far = (point) => (isShown(point) ? (point.x - 0.5) ** 2 + (point.y - 0.5) ** 2 : Infinity);
  const best = points.reduce((least, point, at) => (least < 0 || far(point) < far(points[least]) ? at : least), -1);
  return best >= 0 && isShown(points[best]) ? best : -1;
}
