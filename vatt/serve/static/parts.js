// What all parts of the page use: elements, times, bars of sounds, and questions to the server.

export const by = (id) => document.getElementById(id);

// An element with properties and children. Text goes in as text and never as HTML, whatever a file is called.
export function make(tag, properties = {}, ...children) {
  const { data = {}, ...rest } = properties;
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(rest)) {
    if (name in found && name !== "list") found[name] = value;
    else found.setAttribute(name, value);
  }
  Object.assign(found.dataset, data);
  found.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return found;
}

const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

// The loudness of a sound as bars, from numbers 0 to 100.
export function bars(peaks, label = "") {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  const step = 4;
  svg.setAttribute("viewBox", `0 0 ${peaks.length * step} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "bars");
  if (label) {
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", label);
  } else svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", peaks.map((peak, at) => {
    const half = Math.max(1.5, Number(peak) * 0.48);
    return `M${at * step + 2} ${50 - half}V${50 + half}`;
  }).join(""));
  svg.append(path);
  return svg;
}

// Seconds as 0:07, 12:34 or 1:02:03.
export function clock(seconds) {
  const whole = Math.floor(seconds + 0.05);
  const two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

export const lasting = (seconds) =>
  seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;

export const counted = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

export class Refused extends Error {}

// The JSON of an answer. Throws Refused with the server's reason.
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. Has it ended?");
  }
  let content = null;
  try {
    content = await answer.json();
  } catch {
    content = null;
  }
  if (!answer.ok) throw new Refused(content?.error ?? `The server answered with ${answer.status}.`);
  return content;
}

// Addresses of what the browser may keep; with `v` they mean the same after the index has changed.
export const mediaOf = (moment) => `/media/${moment.item}?v=${moment.v}`;
export const posterOf = (moment) => `/poster/${moment.row}?v=${moment.v}`;
export const shapeOf = (moment) => ask(`/shape/${moment.row}?v=${moment.v}`);

export const still = matchMedia("(prefers-reduced-motion: reduce)");
