// The page: what is asked, by words, sound, clip or likeness; its answers; filters, keys and the address line.

import { ask, bars, by, counted, icon, lasting, make, Refused } from "./parts.js";
import { card, face, stop } from "./cards.js";
import * as player from "./player.js";
import * as map from "./map.js";

const PAUSE = 350; // milliseconds without a key, after which words are searched
const PAGE = 48;
const state = {
  words: "",
  clip: null, // an upload: {token, name, kind, by, peaks, picture, file}
  like: null, // a moment
  weight: 0.5, // of the words, where both are asked
  folder: "",
  length: "",
  kind: "",
  view: "list",
  top: PAGE,
};
let about = null;
let results = [];
let turn = 0; // of the last question, so that a late answer to an earlier one is dropped
let stopping = null;
let typing = 0;
let working = 0;

const isAsked = () => Boolean(state.words || state.clip || state.like);

async function begin() {
  setTheme(stored("theme"));
  try {
    about = await ask("/api/collection");
  } catch (error) {
    say(error.message, true);
    return;
  }
  describe();
  await fromAddress();
}

// What the index holds; it may change while the page is open.
function describe() {
  document.title = `${about.name} · search`;
  by("name").textContent = about.name;
  for (const name of ["folder", "kind"]) by(name).replaceChildren(by(name).options[0]);
  for (const [value, text, count] of about.folders) by("folder").append(make("option", { value }, `${text} (${count})`));
  const kinds = { video: "films", audio: "sounds", image: "pictures" };
  for (const [kind, count] of Object.entries(about.kinds)) by("kind").append(make("option", { value: kind }, `${kinds[kind]} (${count})`));
  by("folder").closest("label").hidden = !about.folders.length;
  by("kind").closest("label").hidden = Object.keys(about.kinds).length < 2;
  by("map-by").hidden = about.spaces.length < 2;
  by("by").value = about.spaces[0] ?? "picture";
  for (const name of ["folder", "kind"]) by(name).value = state[name];
  examples();
}

// Asking

async function search({ keep = false, quiet = false } = {}) {
  stop();
  clearTimeout(typing);
  stopping?.abort();
  stopping = new AbortController();
  const mine = ++turn;
  if (!keep) state.top = PAGE;
  const asked = new URLSearchParams(filters());
  let path = "/api/browse";
  if (isAsked()) {
    path = "/api/search";
    if (state.words) asked.set("text", state.words);
    if (state.clip) asked.set("upload", state.clip.token);
    else if (state.like) {
      asked.set("like", state.like.row);
      asked.set("v", state.like.v);
    }
    if (state.words && (state.clip || state.like)) asked.set("weight", state.weight);
    asked.set("top", state.top);
  } else asked.set("count", state.top);
  showAsked();
  busy(1);
  try {
    const answer = await ask(`${path}?${asked}`, { signal: stopping.signal });
    if (answer.v !== about.v) {
      about = await ask("/api/collection");
      describe();
    }
    if (mine !== turn) return;
    show(answer);
  } catch (error) {
    if (error.name === "AbortError" || mine !== turn) return;
    if (!(error instanceof Refused)) throw error;
    if (quiet) return; // half a word, while it is typed
    show({ results: [] });
    say(error.message, true);
  } finally {
    busy(-1);
  }
}

function filters() {
  const found = {};
  if (state.folder) found.folder = state.folder;
  if (state.kind) found.kind = state.kind;
  const [shortest, longest] = state.length.split("-");
  if (shortest && shortest !== "0") found.shortest = shortest;
  if (longest) found.longest = longest;
  return found;
}

function show(answer) {
  results = answer.results;
  by("list").replaceChildren(...results.map((one, at) => card(one, at, { play: playResult, alike, folder: setFolder })));
  const total = answer.total ?? results.length;
  by("more").hidden = state.top >= 200 || (isAsked() ? !answer.more : total <= results.length);
  by("examples").hidden = isAsked() || !by("examples").children.length;
  map.mark(results, filters());
  const narrowed = Object.keys(filters()).length > 0;
  by("clear").hidden = !narrowed;
  if (!results.length) say(narrowed ? "Nothing here with these filters." : "Nothing was found.");
  else if (isAsked()) say(`${counted(results.length, "file", "files")}, the best first`, false, `${Math.round(answer.milliseconds)} ms on the server`);
  else if (narrowed) say(counted(total, "file", "files"));
  else say(`${counted(about.files, "file", "files")}, ${lasting(about.seconds)}, ${counted(about.windows, "moment", "moments")}`);
}

async function upload(file, what = "") {
  if (file.size > about.upload_bytes) {
    say(`${file.name} is larger than ${about.upload_bytes >> 20} MiB, the most that is taken here.`, true);
    return;
  }
  const asked = new URLSearchParams({ name: file.name });
  if (what) asked.set("by", what);
  const mine = ++turn;
  stopping?.abort();
  stopping = new AbortController();
  say(`Reading ${file.name} …`);
  busy(1);
  try {
    const clip = await ask(`/api/upload?${asked}`, { method: "POST", body: file, signal: stopping.signal });
    if (mine !== turn) return;
    state.clip = { ...clip, file };
    state.like = null;
    toAddress();
    await search();
  } catch (error) {
    if (error.name !== "AbortError" && mine === turn) say(`${file.name}: ${error.message}`, true);
  } finally {
    busy(-1);
  }
}

function alike(moment) {
  state.like = moment;
  state.clip = null;
  state.words = "";
  by("words").value = "";
  toAddress();
  if (state.view === "list") scrollTo({ top: 0 });
  search();
}

// What was asked, shown above the answers

function showAsked() {
  const parts = [];
  if (state.words) parts.push(make("div", { className: "chip words" }, make("q", {}, state.words), remove("words", () => {
    state.words = "";
    by("words").value = "";
  })));
  if (state.clip) parts.push(clipChip());
  if (state.like) {
    parts.push(make("div", { className: "chip" }, face(state.like), make("span", {}, "like ", make("b", {}, state.like.name)), remove("likeness", () => { state.like = null; })));
  }
  if (state.words && (state.clip || state.like)) parts.splice(1, 0, weight());
  by("asked").hidden = !parts.length;
  by("asked").replaceChildren(...parts);
}

function clipChip() {
  const { name, kind, by: what, peaks, picture, file } = state.clip;
  const shown = what === "audio"
    ? bars(peaks, `The sound of ${name}`)
    : make("img", { alt: `A picture of ${name}`, src: picture });
  const chip = make("div", { className: `chip clip ${what}` }, shown, make("span", {}, make("b", {}, name)));
  if (kind === "video") {
    const choice = make("select", { "aria-label": "Search by its picture or its sound" });
    choice.append(make("option", { value: "video" }, "by its picture"), make("option", { value: "audio" }, "by its sound"));
    choice.value = what;
    choice.addEventListener("change", () => upload(file, choice.value));
    chip.append(choice);
  }
  chip.append(remove(name, () => { state.clip = null; }));
  return chip;
}

function weight() {
  const slider = make("input", { type: "range", min: "0", max: "1", step: "0.05", value: String(state.weight), "aria-label": "Weight of the words beside the clip" });
  slider.addEventListener("change", () => {
    state.weight = Number(slider.value);
    search();
  });
  return make("label", { className: "weight" }, make("span", {}, "words"), slider, make("span", {}, state.clip ? "clip" : "likeness"));
}

function remove(name, does) {
  const found = make("button", { type: "button", className: "quiet only", "aria-label": `Remove ${name}` }, icon("close"));
  found.addEventListener("click", () => {
    does();
    toAddress();
    search();
    by("words").focus();
  });
  return found;
}

function examples() {
  by("examples").replaceChildren(...about.examples.map((words) => {
    const one = make("button", { type: "button", className: "example" }, words);
    one.addEventListener("click", () => setWords(words));
    return one;
  }));
  if (about.examples.length) by("examples").prepend(make("span", {}, "Try"));
}

function setWords(words) {
  by("words").value = words;
  state.words = words.trim();
  toAddress();
  search();
}

function setFolder(folder) {
  state.folder = folder;
  by("folder").value = folder;
  toAddress();
  search();
}

// Playing

function playResult(at) {
  player.play(results, at);
}

function chosen(at) {
  by("list").children[at]?.querySelector(".thumb").focus({ preventScroll: false });
}

// The address line holds what was asked, but for uploads, which are not kept

function toAddress(replace = false) {
  const found = new URLSearchParams();
  if (state.words) found.set("q", state.words);
  if (state.like) {
    found.set("like", state.like.row);
    found.set("v", state.like.v);
  }
  for (const name of ["folder", "length", "kind"]) if (state[name]) found.set(name, state[name]);
  if (state.view === "map") found.set("view", "map");
  const address = found.size ? `?${found}` : location.pathname;
  if (address === (location.search || location.pathname)) return;
  history[replace ? "replaceState" : "pushState"](null, "", address);
}

async function fromAddress() {
  const given = new URLSearchParams(location.search);
  state.words = (given.get("q") ?? "").slice(0, 1000);
  by("words").value = state.words;
  for (const name of ["folder", "length", "kind"]) {
    by(name).value = given.get(name) ?? "";
    state[name] = by(name).value;
    if (by(name).selectedIndex < 0) by(name).value = state[name] = "";
  }
  state.clip = null;
  state.like = null;
  const like = given.get("like");
  if (like && /^\d{1,12}$/.test(like)) {
    try {
      state.like = await ask(`/api/moment/${like}${given.has("v") ? `?${new URLSearchParams({ v: given.get("v") })}` : ""}`);
    } catch {
      state.like = null;
    }
  }
  setView(given.get("view") === "map" ? "map" : "list", false);
  await search();
}

// View, theme, keys

function setView(view, told = true) {
  state.view = view;
  by("map").hidden = view !== "map";
  by("found").hidden = view === "map";
  by("as-map").setAttribute("aria-pressed", String(view === "map"));
  by("as-list").setAttribute("aria-pressed", String(view !== "map"));
  document.body.classList.toggle("mapped", view === "map");
  stop();
  if (view === "map") map.open();
  if (told) toAddress();
}

const stored = (name) => {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
};

function setTheme(theme) {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  try {
    if (theme) localStorage.setItem("theme", theme);
  } catch {
    // it holds until the page is closed
  }
}

function turnTheme() {
  const now = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  setTheme(now === "dark" ? "light" : "dark");
  map.mark(results, filters());
}

function say(text, bad = false, more = "") {
  by("status").textContent = text;
  by("status").title = more;
  by("status").classList.toggle("bad", bad);
}

function busy(more) {
  working += more;
  by("busy").hidden = working <= 0;
}

// From a result to the next one in a direction, as they stand on the page.
function go(toX, toY) {
  const thumbs = [...by("list").querySelectorAll(".thumb")];
  const from = document.activeElement.closest?.(".card")?.querySelector(".thumb");
  if (!from) {
    thumbs[0]?.focus();
    return;
  }
  const middle = (box) => [box.left + box.width / 2, box.top + box.height / 2];
  const at = thumbs.indexOf(from);
  if (toX) {
    thumbs[at + toX]?.focus();
    return;
  }
  const [x, y] = middle(from.getBoundingClientRect());
  let best = null;
  let least = Infinity;
  for (const thumb of thumbs) {
    const [px, py] = middle(thumb.getBoundingClientRect());
    const ahead = (py - y) * toY;
    const far = ahead + 3 * Math.abs(px - x);
    if (ahead > 20 && far < least) [best, least] = [thumb, far];
  }
  best?.focus();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || player.isOpen() || by("keys").open) return;
  const inWords = event.target === by("words");
  if (event.target.matches?.("input, select, textarea") && !(inWords && ["ArrowDown", "Escape"].includes(event.key))) return;
  if (event.target === by("canvas") && event.key.startsWith("Arrow")) return;
  const card = document.activeElement.closest?.(".card");
  const does = {
    "/": () => { by("words").focus(); by("words").select(); },
    "?": () => by("keys").showModal(),
    m: () => setView("map"),
    g: () => setView("list"),
    t: turnTheme,
    l: () => card && alike(results[[...by("list").children].indexOf(card)]),
    ArrowLeft: () => go(-1, 0),
    ArrowRight: () => go(1, 0),
    ArrowUp: () => go(0, -1),
    ArrowDown: () => go(0, 1),
    Escape: () => document.activeElement.blur(),
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!does || (state.view === "map" && event.key.startsWith("Arrow"))) return;
  event.preventDefault();
  does();
}

function listen() {
  player.setUp({ alike, chosen: (at) => state.view === "list" && chosen(at) });
  map.setUp({ play: (points, at) => player.play(points, at), alike });
  by("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    state.words = by("words").value.trim();
    toAddress();
    search();
  });
  by("words").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      const words = by("words").value.trim();
      if (words === state.words || (words && words.length < 3)) return;
      state.words = words;
      toAddress(true);
      search({ quiet: true });
    }, PAUSE);
  });
  by("attach").addEventListener("click", () => by("file").click());
  by("file").addEventListener("change", () => {
    if (by("file").files[0]) upload(by("file").files[0]);
    by("file").value = "";
  });
  for (const name of ["folder", "length", "kind"]) {
    by(name).addEventListener("change", () => {
      state[name] = by(name).value;
      toAddress();
      search();
    });
  }
  by("clear").addEventListener("click", () => {
    for (const name of ["folder", "length", "kind"]) by(name).value = state[name] = "";
    toAddress();
    search();
  });
  by("more").addEventListener("click", () => {
    state.top = Math.min(200, state.top * 2);
    search({ keep: true });
  });
  by("as-list").addEventListener("click", () => setView("list"));
  by("as-map").addEventListener("click", () => setView("map"));
  by("theme").addEventListener("click", turnTheme);
  by("help").addEventListener("click", () => by("keys").showModal());
  addEventListener("keydown", pressed);
  addEventListener("popstate", fromAddress);
  let over = 0;
  const files = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => { if (files(event)) { over += 1; by("drop").hidden = false; } });
  addEventListener("dragleave", (event) => { if (files(event) && --over <= 0) { over = 0; by("drop").hidden = true; } });
  addEventListener("dragover", (event) => files(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    over = 0;
    by("drop").hidden = true;
    if (event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData?.files[0]) upload(event.clipboardData.files[0]);
  });
}

listen();
begin();
