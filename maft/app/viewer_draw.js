// Second part of the viewer: draws the regions of an answer over the photo, and names what is under the pointer.

watch("value", () => {
  const value = props.value;
  if (!value) return;
  fail(value.error);
  if (!value.answer || value.answer === state.answer?.answer || value.photo !== state.photo) return;
  state.answer = value;
  state.takesClicks = value.takes_clicks;
  state.hidden.clear();
  show(value.clicked ? "instances" : value.views[state.chosen] ? state.chosen : "semantic");
  if (window.innerWidth < 800) part("stage").scrollIntoView({ behavior: "smooth", block: "start" });
});

async function show(view) {
  const turn = ++shown;
  const { answer, width, height, views } = state.answer;
  const response = await fetch(`${root}answers/${answer}/regions/${view}`);
  if (!response.ok) return fail((await response.json()).error);
  const bytes = await response.arrayBuffer();
  if (turn !== shown) return;
  const count = width * height;
  state.view = view;
  state.ids = new Uint16Array(bytes, 0, count);
  state.confidence = new Uint8Array(bytes, 2 * count, count);
  for (const name of ["colours", "lines"]) {
    part(name).width = width;
    part(name).height = height;
    part(name).hidden = false;
  }
  for (const button of part("views").children) {
    const its = button.dataset.view;
    button.disabled = !views[its];
    const why = state.answer.clicked
      ? "what was clicked is found as objects, which may overlap"
      : "this model's config averages several looks at a picture, which gives no segments";
    button.title = views[its] ? "" : why;
    button.setAttribute("aria-checked", its === view);
  }
  part("bar").hidden = part("panel").hidden = false;
  part("note").textContent = state.answer.note;
  fade();
  draw();
}

// Ids of the regions that the threshold and the switches leave, pixel by pixel.
function visible() {
  const regions = state.answer.views[state.view];
  const least = Number(part("threshold").value);
  const ids = new Uint16Array(state.ids.length);
  const on = new Uint8Array(regions.length + 1);
  regions.forEach((region, place) => (on[place + 1] = !state.hidden.has(region.label)));
  for (let pixel = 0; pixel < ids.length; pixel++) {
    const id = state.ids[pixel];
    if (on[id] && state.confidence[pixel] >= least) ids[pixel] = id;
  }
  return ids;
}

function draw() {
  const { width, height, views } = state.answer;
  const regions = views[state.view];
  state.visible = visible();
  const colours = new ImageData(width, height);
  const table = new Uint32Array(regions.length + 1);
  regions.forEach(({ colour: [red, green, blue] }, place) => {
    table[place + 1] = (255 << 24) | (blue << 16) | (green << 8) | red;
  });
  const words = new Uint32Array(colours.data.buffer);
  for (let pixel = 0; pixel < words.length; pixel++) words[pixel] = table[state.visible[pixel]];
  part("colours").getContext("2d").putImageData(colours, 0, 0);
  outline();
  legend();
  links();
}

// White lines between regions, a wider dark and white one around what the pointer or the legend points at.
function outline() {
  const { width, height } = state.answer;
  const lines = new ImageData(width, height);
  const words = new Uint32Array(lines.data.buffer);
  const ids = state.visible;
  const wide = Math.max(1, Math.round(Math.max(width, height) / 320));
  const is = state.pointed;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const here = y * width + x;
      const right = x + 1 < width ? ids[here + 1] : ids[here];
      const below = y + 1 < height ? ids[here + width] : ids[here];
      if (ids[here] === right && ids[here] === below) continue;
      const marked = is && (is(ids[here]) || is(right) || is(below));
      const reach = marked ? wide : 0;
      for (let v = Math.max(0, y - reach); v <= Math.min(height - 1, y + reach); v++) {
        for (let u = Math.max(0, x - reach); u <= Math.min(width - 1, x + reach); u++) {
          const there = v * width + u;
          if (marked || !words[there]) words[there] = marked ? 0xffffffff : 0xd0ffffff;
        }
      }
    }
  }
  part("lines").getContext("2d").putImageData(lines, 0, 0);
  if (part("names").checked) write();
}

// Names where regions are deepest, the largest first; one that would cover another is left to the pointer.
function write() {
  const { width, height, views } = state.answer;
  const pen = part("lines").getContext("2d");
  const size = Math.max(14, Math.round((14 * width) / Math.max(1, part("lines").clientWidth)));
  Object.assign(pen, { font: `600 ${size}px system-ui, sans-serif`, textAlign: "center", textBaseline: "middle" });
  Object.assign(pen, { lineWidth: size / 4, lineJoin: "round", strokeStyle: "rgba(0, 0, 0, 0.8)", fillStyle: "#fff" });
  const taken = [];
  const ordered = views[state.view].map((region, place) => [region, place + 1]);
  ordered.sort(([one], [other]) => other.place[2] - one.place[2]);
  for (const [{ name, place: [column, row, depth] }, id] of ordered) {
    if (state.visible[row * width + column] !== id || depth < size / 3) continue;
    const half = pen.measureText(name).width / 2 + size / 4;
    const [x, y] = [Math.min(Math.max(column, half), width - half), Math.min(Math.max(row, size), height - size)];
    if (taken.some(([u, v, its]) => Math.abs(x - u) < half + its && Math.abs(y - v) < 1.3 * size)) continue;
    taken.push([x, y, half]);
    pen.strokeText(name, x, y);
    pen.fillText(name, x, y);
  }
}

function legend() {
  const regions = state.answer.views[state.view];
  const areas = new Float64Array(regions.length + 1);
  for (const id of state.ids) areas[id]++;
  const left = new Float64Array(regions.length + 1);
  for (const id of state.visible) left[id]++;
  const classes = new Map();
  regions.forEach((region, place) => {
    const one = classes.get(region.label) || { ...region, area: 0, left: 0, count: 0 };
    one.area += areas[place + 1];
    one.left += left[place + 1];
    one.count += left[place + 1] > 0;
    classes.set(region.label, one);
  });
  const found = [...classes.values()].filter((one) => one.area).sort((one, other) => other.area - one.area);
  const items = found.map((one) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.label = one.label;
    button.setAttribute("aria-pressed", !state.hidden.has(one.label));
    const swatch = document.createElement("i");
    swatch.style.background = `rgb(${one.colour})`;
    const name = document.createElement("span");
    name.textContent = one.name;
    const rest = document.createElement("small");
    const share = (100 * one.left) / state.ids.length;
    const amount = `${share >= 0.95 || share === 0 ? Math.round(share) : share.toFixed(1)} %`;
    const count = state.view === "semantic" || one.count < 2 ? "" : ` in ${one.count}`;
    rest.textContent = state.hidden.has(one.label) ? "hidden" : amount + count;
    button.append(swatch, name, rest);
    if (one.unseen) {
      const tag = document.createElement("em");
      tag.textContent = "unseen";
      tag.title = "no label of this class was seen in training";
      button.append(tag);
    }
    const item = document.createElement("li");
    item.append(button);
    return item;
  });
  part("legend").replaceChildren(...items);
}

function point(is) {
  state.pointed = is;
  outline();
}

part("legend").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const label = Number(button.dataset.label);
  if (!state.hidden.delete(label)) state.hidden.add(label);
  draw();
  part("legend").querySelector(`[data-label="${label}"]`).focus();
});
for (const [on, off] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
  part("legend").addEventListener(on, (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const regions = state.answer.views[state.view];
    point((id) => id > 0 && regions[id - 1].label === Number(button.dataset.label));
  });
  part("legend").addEventListener(off, () => point(null));
}

part("views").addEventListener("click", (event) => {
  const view = event.target.dataset.view;
  if (view) show((state.chosen = view));
});
part("names").addEventListener("change", () => outline());
for (const name of ["opacity", "threshold"]) {
  part(name).addEventListener("input", () => {
    part(`${name}Shown`).textContent = `${part(name).value} %`;
    if (name === "opacity") fade();
    else if (state.answer) draw();
    if (state.answer) links();
  });
}

// Over a grey picture a class has the colour of the legend wherever it is.
function fade() {
  part("colours").style.opacity = part("opacity").value / 100;
  part("photo").style.filter = state.answer ? `grayscale(${Math.min(100, 2 * part("opacity").value)}%)` : "";
}

function links() {
  const query = new URLSearchParams({
    none_below: part("threshold").value / 100,
    opacity: part("opacity").value / 100,
    hidden: [...state.hidden],
    view: state.view,
  });
  const files = { labels: "labels.png", overlay: "overlay.png", json: "prediction.json" };
  for (const [name, file] of Object.entries(files)) {
    part(name).href = `${root}answers/${state.answer.answer}/${file}?${query}`;
  }
}

// ---- the pointer ---------------------------------------------------------------------------------------------------

function hover(event) {
  if (!state.answer || !state.visible) return;
  const { width, height, views } = state.answer;
  const frame = part("lines").getBoundingClientRect();
  const x = Math.floor(((event.clientX - frame.left) / frame.width) * width);
  const y = Math.floor(((event.clientY - frame.top) / frame.height) * height);
  const inside = x >= 0 && y >= 0 && x < width && y < height;
  const pixel = y * width + x;
  const id = inside ? state.visible[pixel] : 0;
  const tip = part("tip");
  tip.hidden = !inside;
  if (inside) {
    const region = id ? views[state.view][id - 1] : null;
    tip.textContent = region ? `${region.name} · ${state.confidence[pixel]} %` : "none of these";
    const room = part("stage").getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX - room.left + 12, room.width - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.max(event.clientY - room.top - tip.offsetHeight - 10, 4)}px`;
  }
  if (id !== state.over) {
    state.over = id;
    point(id ? (other) => other === id : null);
  }
}
part("stage").addEventListener("pointermove", hover);
part("stage").addEventListener("pointerdown", hover);
part("stage").addEventListener("pointerleave", (event) => {
  // A finger leaves as soon as it has tapped.
  if (event.pointerType === "touch") return;
  part("tip").hidden = true;
  state.over = 0;
  if (state.answer && state.visible) point(null);
});
