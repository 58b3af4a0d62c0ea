// Over a token, the attention behind it is drawn on the images; a click holds it. See answer.html.jinja.
const COLOUR = [255, 96, 0];

function look(token) {
  const player = token.closest(".player");
  player.querySelectorAll(".token.now").forEach(one => one.classList.remove("now"));
  token.classList.add("now");
  const bytes = atob(token.dataset.map);
  let start = 0;
  for (const figure of player.querySelectorAll("figure")) {
    const [rows, columns] = figure.dataset.grid.split(",").map(Number);
    const canvas = figure.querySelector("canvas");
    if (!rows || start + rows * columns > bytes.length) {
      canvas.width = canvas.height = 0;  // it came after this token
      continue;
    }
    canvas.width = columns;
    canvas.height = rows;
    const drawing = canvas.getContext("2d"), pixels = drawing.createImageData(columns, rows);
    for (let cell = 0; cell < rows * columns; cell++) {
      pixels.data.set([...COLOUR, 0.6 * bytes.charCodeAt(start + cell)], 4 * cell);
    }
    drawing.putImageData(pixels, 0, 0);
    start += rows * columns;
  }
  player.querySelector(".where").textContent =
    `“${token.textContent}”: ${token.dataset.share} of the attention is on the image, ${token.dataset.peak} on one cell`;
}

function back(player) {
  const token = player.querySelector(".token.held") ?? player.querySelector(".token.read[data-map]");
  if (token) look(token);
}

const tokenOf = event => event.target.closest?.(".token[data-map]");
for (const kind of ["pointerover", "focusin"]) {
  element.addEventListener(kind, event => { if (tokenOf(event)) look(tokenOf(event)); });
}
element.addEventListener("click", event => {
  const token = tokenOf(event);
  if (!token) return;
  const held = token.classList.contains("held");
  element.querySelectorAll(".token.held").forEach(one => one.classList.remove("held"));
  token.classList.toggle("held", !held);
});
element.addEventListener("pointerout", event => {
  if (tokenOf(event) && !event.relatedTarget?.closest?.(".token")) back(tokenOf(event).closest(".player"));
});
watch("value", () => element.querySelectorAll(".player[data-over]").forEach(back));
