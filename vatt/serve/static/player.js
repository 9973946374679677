// The player: a file from the found moment on, its other moments, and the way to the next result.

import { ask, by, clock, make, mediaOf, posterOf } from "./parts.js";
import { face, stop } from "./cards.js";

const dialog = by("player");
let results = [];
let number = -1;
let shown = null; // the moment that plays
let media = null;
let looping = false;
let actions = {};
let opener = null;

export function setUp(given) {
  actions = given;
  by("close").addEventListener("click", () => dialog.close());
  by("previous").addEventListener("click", () => step(-1));
  by("next").addEventListener("click", () => step(1));
  by("loop").addEventListener("click", loop);
  by("alike").addEventListener("click", alike);
  dialog.addEventListener("close", () => {
    end();
    opener?.focus();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const does = { n: () => step(1), p: () => step(-1), r: loop, l: alike }[event.key.toLowerCase()];
    if (does) {
      event.preventDefault();
      does();
    }
  });
}

export const isOpen = () => dialog.open;

// Plays result `at` of `list`.
export function play(list, at) {
  stop();
  if (!dialog.open) opener = document.activeElement;
  results = list;
  number = at;
  show(list[at]);
  if (!dialog.open) dialog.showModal();
  media?.focus?.();
}

function step(by) {
  if (number + by < 0 || number + by >= results.length) return;
  number += by;
  show(results[number]);
  actions.chosen?.(number);
}

function loop() {
  looping = !looping;
  by("loop").setAttribute("aria-pressed", String(looping));
  if (looping && media?.currentTime > shown.end) jump(shown.start);
}

function alike() {
  dialog.close();
  actions.alike(shown);
}

function end() {
  if (!media) return;
  media.pause?.();
  media.removeAttribute("src");
  media.load?.();
  media = null;
}

function show(moment) {
  end();
  shown = moment;
  by("title").textContent = by("title").title = moment.name;
  by("where").textContent = [moment.folder, moment.label, moment.seconds > 0 ? clock(moment.seconds) : ""].filter(Boolean).join(" · ");
  by("said").textContent = moment.caption ?? "";
  by("said").hidden = !moment.caption;
  by("previous").disabled = number <= 0;
  by("next").disabled = number >= results.length - 1;
  by("loop").hidden = moment.kind === "image";
  by("open").hidden = !moment.playable;
  if (moment.playable) by("open").href = mediaOf(moment);
  by("stage").replaceChildren(...stage(moment));
  copies(moment);
  times(moment);
}

function stage(moment) {
  if (!moment.playable) return [face(moment), make("p", { className: "cannot" }, "This clip is packed in shards: there is no file to play.")];
  if (moment.kind === "image") {
    media = make("img", { className: "film", alt: moment.name, src: mediaOf(moment), tabIndex: 0 });
    media.addEventListener("error", () => cannot(moment), { once: true });
    return [media];
  }
  media = make(moment.kind === "audio" ? "audio" : "video", { className: "film", controls: true, playsInline: true, preload: "auto" });
  if (moment.kind === "video") media.poster = posterOf(moment);
  const here = media;
  here.addEventListener("loadedmetadata", () => {
    jump(shown.start);
    here.play().catch(() => {}); // a browser may want a click first
  });
  here.addEventListener("timeupdate", () => {
    if (looping && here.currentTime >= shown.end) jump(shown.start);
    mark(here.currentTime);
  });
  here.addEventListener("ended", () => {
    if (looping) { jump(shown.start); here.play().catch(() => {}); }
  });
  here.addEventListener("error", () => {
    if (here !== media) return;
    cannot(moment);
  });
  here.src = mediaOf(moment);
  return moment.kind === "audio" ? [face(moment), here] : [here];
}

// Why a file does not play: the server has it no more, or the browser does not know its format.
async function cannot(moment) {
  let why = "This browser does not know the format of the file. ";
  let link = make("a", { href: mediaOf(moment), download: moment.name }, "Save the file");
  try {
    await ask(mediaOf(moment), { headers: { range: "bytes=0-0" }, cache: "no-store" });
  } catch (error) {
    [why, link] = [error.message, null];
  }
  if (shown.item !== moment.item) return;
  by("open").hidden = !link;
  by("stage").replaceChildren(face(moment), make("p", { className: "cannot" }, why, link));
}

function jump(seconds) {
  if (media && Number.isFinite(seconds) && media.readyState > 0) media.currentTime = seconds;
}

// The windows of the file on a line of time: those that were found are higher, a click plays one.
async function times(moment) {
  const line = by("times");
  line.replaceChildren();
  line.hidden = moment.kind === "image" || !(moment.seconds > 0);
  if (line.hidden) return;
  const scores = new Map((moment.moments ?? []).map(([row, , , score]) => [row, score]));
  const best = Math.max(...scores.values(), moment.score ?? 0, 1e-6);
  let all = moment.moments ?? [];
  try {
    all = (await ask(`/api/moments/${moment.item}?v=${moment.v}`)).moments;
  } catch {
    // those that were found are shown alone
  }
  if (shown !== moment) return;
  const few = all.length > 400 ? all.filter(([row]) => scores.has(row) || row === moment.row) : all;
  for (const [row, start, end] of few) {
    const found = scores.get(row) ?? (row === moment.row ? moment.score ?? best : null);
    const one = make("button", { type: "button", className: found === null ? "" : "found", title: `${clock(start)} – ${clock(end)}`, "aria-label": `Play from ${clock(start)}`, data: { start, end } });
    one.style.left = `${(100 * start) / moment.seconds}%`;
    one.style.width = `${Math.max(0.8, Math.min(100 - (100 * start) / moment.seconds, (100 * (end - start)) / moment.seconds))}%`;
    one.style.setProperty("--high", found === null ? "0.25" : String(0.35 + 0.65 * Math.max(0, found / best)));
    if (row === moment.row) one.setAttribute("aria-current", "true");
    one.addEventListener("click", () => {
      shown = { ...shown, row, start, end };
      for (const other of line.querySelectorAll("button")) other.removeAttribute("aria-current");
      one.setAttribute("aria-current", "true");
      jump(start);
      media?.play?.().catch(() => {});
    });
    line.append(one);
  }
  line.append(make("i", { className: "now" }));
}

function mark(seconds) {
  const now = by("times").querySelector(".now");
  if (now && shown?.seconds > 0) now.style.left = `${Math.min(100, (100 * seconds) / shown.seconds)}%`;
}

function copies(moment) {
  const box = by("copies");
  box.hidden = !moment.copies?.length;
  box.replaceChildren();
  if (box.hidden) return;
  box.append(make("h3", {}, "Nearly the same"));
  for (const copy of moment.copies) {
    const one = make("button", { type: "button", className: "quiet" }, copy.folder ? `${copy.folder}/${copy.name}` : copy.name);
    one.addEventListener("click", () => show({ ...copy, copies: [] }));
    box.append(one);
  }
}
