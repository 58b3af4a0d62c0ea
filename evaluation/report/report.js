"use strict";
// The page is whole without this script: it filters the examples, moves between them by key, and plays the film.
const one = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];
document.documentElement.classList.add("script");

const examples = all(".example");
const filters = all("[data-filter]");
const search = one("#search");

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const example of examples) {
    const text = example.textContent.toLowerCase();
    const fits = filters.every(({ value, dataset }) => !value || example.dataset[dataset.filter] === value);
    example.hidden = !(fits && words.every((word) => text.includes(word)));
    shown += !example.hidden;
  }
  one("#shown").textContent = `${shown} of ${examples.length} examples`;
}

function move(by) {
  const visible = examples.filter((example) => !example.hidden);
  const at = visible.indexOf(document.activeElement);
  const next = visible[at < 0 ? 0 : Math.min(Math.max(at + by, 0), visible.length - 1)];
  if (next) next.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    search.value = "";
    for (const select of filters) select.value = "";
    filter();
    search.blur();
  } else if (event.target.matches("input, select")) {
    return;
  } else if (event.key === "j") {
    move(1);
  } else if (event.key === "k") {
    move(-1);
  } else if (event.key === "/") {
    event.preventDefault();
    search.focus();
  }
});
for (const control of [...filters, search]) control.addEventListener("input", filter);
filter();

const reel = one("#frame");
if (reel) {
  const play = one("#play");
  let timer = null;
  const show = () => {
    for (const frame of all("[data-frame]")) frame.classList.toggle("now", frame.dataset.frame === reel.value);
    reel.setAttribute("aria-valuetext", one(`.step[data-frame="${reel.value}"]`).textContent);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };
  const advance = () => {
    reel.stepUp();
    show();
    if (reel.value === reel.max) stop();
  };
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (reel.value === reel.max) reel.value = "0";
    show();
    play.textContent = "Stop";
    timer = setInterval(advance, 900);
  });
  reel.addEventListener("input", () => {
    stop();
    show();
  });
}
