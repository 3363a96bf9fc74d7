// What makes the charts of the page answer its controls: smoothing, the horizontal axis, and which lines are shown.
"use strict";

(() => {
  const content = JSON.parse(document.getElementById("plots").textContent);
  const kept = sessionStorage; // so that a page that is loaded again keeps what was chosen
  let models = [];

  const tagged = (tag) => models.filter((model) => model.tags && model.tags.includes(tag));

  // An exponential mean that does not start at zero: the weight of what came before is divided out.
  function smoothed(values, weight) {
    let sum = 0;
    let total = 0;
    return Float32Array.from(values, (value) => {
      sum = weight * sum + (1 - weight) * value;
      total = weight * total + (1 - weight);
      return sum / total;
    });
  }

  function redraw() {
    const weight = Number(document.getElementById("smoothing").value);
    const axis = document.getElementById("time-axis").value;
    document.getElementById("smoothing-shown").textContent = weight.toFixed(2);
    for (const source of tagged("time")) {
      const changed = { ...source.data, x: source.data[axis] };
      if (source.tags.includes("noisy")) changed.y = smoothed(source.data.raw, weight);
      source.data = changed;
    }
    for (const model of models) if (model.name === "time axis") model.axis_label = axis;
  }

  function show(box) {
    for (const line of tagged(box.dataset.series)) line.visible = box.checked;
  }

  function control(element, apply) {
    const key = `imagenet-ais ${element.id || element.dataset.series}`;
    const property = element.type === "checkbox" ? "checked" : "value";
    const former = kept.getItem(key);
    if (former !== null) element[property] = property === "checked" ? former === "true" : former;
    element.addEventListener("input", () => {
      kept.setItem(key, element[property]);
      apply(element);
    });
  }

  Bokeh.embed.embed_items(content.documents, content.items).then(() => {
    for (const drawn of Bokeh.documents) models.push(...drawn._all_models.values());
    if (document.getElementById("smoothing")) {
      control(document.getElementById("smoothing"), redraw);
      control(document.getElementById("time-axis"), redraw);
      redraw();
    }
    for (const box of document.querySelectorAll("input[data-series]")) {
      control(box, show);
      if (!box.checked) show(box);
    }
    document.body.dataset.drawn = "yes";
  });
})();
