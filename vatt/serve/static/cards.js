// The results as cards: a picture or a waveform of the moment, which moves under the mouse, its score, and what to do with it.

import { bars, clock, icon, make, mediaOf, posterOf, shapeOf, still } from "./parts.js";

const WAIT = 180; // milliseconds that the mouse rests on a card before it moves
let preview = null; // the film that moves now, with its card
let timer = 0;

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    entry.target.dispatchEvent(new Event("seen"));
  }
}, { rootMargin: "300px" });

// The picture of a moment: of a film or picture a still, of a sound its bars.
export function face(moment) {
  const found = make("span", { className: `face ${moment.kind}` });
  if (moment.kind === "audio") {
    found.append(make("span", { className: "mark" }, icon("sound")));
    found.addEventListener("seen", async () => {
      try {
        found.replaceChildren(bars((await shapeOf(moment)).peaks));
      } catch {
        found.classList.add("failed");
      }
    });
    seen.observe(found);
    return found;
  }
  const picture = make("img", { alt: "", loading: "lazy", decoding: "async", src: posterOf(moment) });
  picture.addEventListener("error", () => {
    found.classList.add("failed");
    picture.replaceWith(make("span", { className: "mark" }, icon("picture")));
  });
  found.append(picture);
  return found;
}

// Where in its file a moment lies, and the others that were found there.
function strip(moment) {
  if (!(moment.seconds > 0) || moment.kind === "image") return null;
  const found = make("span", { className: "strip" });
  const mark = (start, end, name) => {
    const one = make("i", { className: name });
    one.style.left = `${Math.min(98, (100 * start) / moment.seconds)}%`;
    one.style.width = `${Math.max(1.5, Math.min(100, (100 * (end - start)) / moment.seconds))}%`;
    found.append(one);
  };
  for (const [, start, end] of moment.moments ?? []) mark(start, end, "other");
  mark(moment.start, moment.end, "best");
  return found;
}

function scores(moment) {
  if (moment.score === undefined) return null;
  const cosines = Object.entries(moment.cosines ?? {});
  const shown = cosines.length ? cosines : [["", moment.score]];
  const row = make("div", { className: "scores" });
  for (const [name, value] of shown) {
    const bar = make("span", { className: "bar", title: `${name ? `${name}: ` : ""}cosine similarity ${value.toFixed(3)}` });
    const inner = make("i");
    inner.style.width = `${Math.max(0, Math.min(1, value)) * 100}%`;
    bar.append(inner);
    row.append(bar);
  }
  const text = shown.map(([, value]) => value.toFixed(2)).join(" · ");
  row.append(make("span", { className: "figure", title: "Cosine similarity with what was asked" }, make("span", { className: "aloud" }, "Score "), text));
  return row;
}

export function card(moment, number, actions) {
  const found = moment.score !== undefined; // else it is listed among all files
  const whole = moment.seconds > 0 ? clock(moment.seconds) : "";
  const span = moment.kind === "image" ? "" : found ? `${clock(moment.start)} – ${clock(moment.end)}` : whole;
  const kind = { video: "film", audio: "sound", image: "picture" }[moment.kind];
  const play = make(
    "button",
    { type: "button", className: "thumb", "aria-label": `Play ${moment.name}${span ? `, ${span}` : ""} (${kind})` },
    face(moment),
    moment.kind === "audio" ? make("span", { className: "badge kind" }, icon("sound")) : null,
    span ? make("span", { className: "badge" }, span) : null,
    make("span", { className: "hint" }, icon("play")),
    found ? strip(moment) : null,
  );
  play.addEventListener("click", () => actions.play(number));
  play.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && soon(play, moment));
  play.addEventListener("pointerleave", stop);
  play.addEventListener("focus", () => play.matches(":focus-visible") && soon(play, moment));
  play.addEventListener("blur", stop);
  const alike = make("button", { type: "button", className: "quiet alike", title: "More like this (L)", "aria-label": `More like ${moment.name}` }, icon("like"));
  alike.addEventListener("click", () => actions.alike(moment));
  const folder = moment.folder
    ? make("button", { type: "button", className: "folder", title: "Only this folder" }, moment.folder)
    : null;
  folder?.addEventListener("click", () => actions.folder(moment.in));
  const notes = [];
  if (moment.moments?.length > 1) notes.push(`${moment.moments.length} moments`);
  if (moment.copies?.length) notes.push(`${moment.copies.length} near ${moment.copies.length === 1 ? "copy" : "copies"}`);
  return make(
    "li",
    { className: "card", data: { row: moment.row } },
    play,
    make(
      "div",
      { className: "about" },
      scores(moment),
      make("div", { className: "line" }, make("h3", { title: moment.name }, moment.name), alike),
      make(
        "p",
        { className: "small" },
        folder,
        moment.label ? make("span", {}, moment.label) : null,
        found && whole && moment.kind !== "image" ? make("span", { title: "Length of the file" }, whole) : null,
        notes.length ? make("span", {}, notes.join(", ")) : null,
      ),
      moment.caption ? make("p", { className: "caption", title: moment.caption }, moment.caption) : null,
    ),
  );
}

function soon(thumb, moment) {
  stop();
  if (moment.kind !== "video" || !moment.playable || still.matches) return;
  timer = setTimeout(() => start(thumb, moment), WAIT);
}

function start(thumb, moment) {
  const film = make("video", { className: "preview", muted: true, playsInline: true, preload: "auto", tabIndex: -1 });
  film.muted = true;
  film.addEventListener("loadedmetadata", () => { film.currentTime = moment.start; });
  film.addEventListener("seeked", () => {
    thumb.classList.add("moving");
    film.play().catch(() => {});
  }, { once: true });
  film.addEventListener("timeupdate", () => {
    if (film.currentTime > moment.end) film.currentTime = moment.start;
  });
  film.addEventListener("ended", () => { film.currentTime = moment.start; film.play().catch(() => {}); });
  film.addEventListener("error", stop);
  film.src = mediaOf(moment);
  thumb.querySelector(".face").append(film);
  preview = { film, thumb };
}

// Ends the film that moves, and its download.
export function stop() {
  clearTimeout(timer);
  if (!preview) return;
  const { film, thumb } = preview;
  preview = null;
  thumb.classList.remove("moving");
  film.removeAttribute("src");
  film.load();
  film.remove();
}
