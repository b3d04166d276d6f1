"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const cell = document.getElementById("cell");
  const text = (tag, words, kind) => {
    const e = document.createElement(tag);
    e.textContent = words;
    if (kind) e.className = kind;
    return e;
  };
  const percent = (p) => (100 * p).toFixed(1) + " %";
  const figure = (s) => {
    const f = document.createElement("figure");
    if (s.thumb) {
      const img = document.createElement("img");
      img.src = "data:image/jpeg;base64," + s.thumb;
      img.alt = s.name;
      f.append(img);
    }
    const c = document.createElement("figcaption");
    const [guess, p] = s.guesses[0];
    c.append(text("div", "called " + data.classes[guess] + ", " + percent(p), guess === s.actual ? "yes" : "no"));
    if (guess !== s.actual) c.append(text("div", "is " + data.classes[s.actual] + ", " + percent(s.probability)));
    c.append(text("div", s.name.split("/").slice(-2).join("/"), "soft"));
    c.title = s.name;
    f.append(c);
    return f;
  };
  document.querySelectorAll("button[data-cell]").forEach((b) => {
    b.addEventListener("click", () => {
      const [actual, predicted, all, count] = data.cells[b.dataset.cell];
      cell.replaceChildren(
        text("p", data.classes[actual] + " called " + data.classes[predicted] + ": " + count + (count > all.length ? ", the " + all.length + " surest" : "")),
      );
      const thumbs = document.createElement("div");
      thumbs.className = "thumbs";
      all.forEach((i) => thumbs.append(figure(data.samples[i])));
      cell.append(thumbs);
    });
  });
})();
