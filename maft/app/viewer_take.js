// First part of the viewer: what all parts share, and how a photo is taken in.
// Gradio runs the three as one, with `element`, `props` and `watch`; `routes.py` has what they fetch.
const part = (name) => element.querySelector(`[data-part="${name}"]`);
const root = window.location.href.split(/[?#]/)[0].replace(/\/?$/, "/") + "maft/";
const state = { photo: null, answer: null, view: "semantic", ids: null, confidence: null, hidden: new Set(), over: 0 };
Object.assign(state, { chosen: "semantic", clicks: [], takesClicks: props.takes_clicks });
let shown = 0; // Counts what is asked for, so that a late answer does not replace a later one.

const fail = (text) => {
  part("error").textContent = text || "";
  part("error").hidden = !text;
  part("drop").classList.toggle("maft-wrong", Boolean(text));
};

async function take(address, body) {
  const turn = ++shown;
  fail("");
  part("note").textContent = "Reading the picture ...";
  let reply;
  try {
    const response = await fetch(root + address, { method: "POST", body });
    reply = await response.json();
  } catch {
    reply = { error: "The picture did not arrive: it is too large, or the connection was lost." };
  }
  if (turn !== shown) return;
  if (reply.error) {
    part("note").textContent = "";
    return fail(reply.error);
  }
  forget();
  state.photo = reply.photo;
  part("photo").src = `${root}photos/${reply.photo}`;
  part("photo").hidden = false;
  part("empty").hidden = true;
  const click = state.takesClicks ? " Click an object to find it." : "";
  part("note").textContent = `${reply.width} × ${reply.height} pixels.${click} ${reply.remark}`;
  // What the button asks about, see `tabs/label.py`.
  part("stage").dataset.photo = reply.photo;
  part("stage").dataset.mark = "";
  part("mark").style.display = "none";
}

function forget() {
  state.answer = null;
  state.clicks = [];
  state.hidden.clear();
  fade();
  for (const name of ["bar", "panel", "colours", "lines", "tip"]) part(name).hidden = true;
}


const send = (file) => {
  if (file.size > props.most_bytes) {
    const size = (file.size / 2 ** 20).toFixed(1);
    return fail(`The file has ${size} MB, and this app takes ${props.most_bytes / 2 ** 20}: save it smaller.`);
  }
  take("photos", file);
};

part("file").addEventListener("change", (event) => {
  if (event.target.files[0]) send(event.target.files[0]);
  event.target.value = "";
});
for (const target of [part("drop"), part("stage")]) {
  target.addEventListener("dragover", (event) => {
    event.preventDefault();
    part("drop").classList.add("maft-over");
  });
  target.addEventListener("dragleave", () => part("drop").classList.remove("maft-over"));
  target.addEventListener("drop", (event) => {
    event.preventDefault();
    part("drop").classList.remove("maft-over");
    if (event.dataTransfer.files[0]) send(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) send(file);
});
for (const [number, title] of props.examples.entries()) {
  const button = document.createElement("button");
  button.type = "button";
  button.title = title;
  const picture = document.createElement("img");
  picture.alt = title;
  picture.loading = "lazy";
  picture.src = `${root}examples/${number}`;
  // A file that cannot be read is no example.
  picture.addEventListener("error", () => button.remove());
  button.append(picture);
  button.addEventListener("click", () => take(`examples/${number}`));
  part("examples").append(button);
}

// ---- clicks, for models that find the object at a place -------------------------------------------------------------

part("stage").addEventListener("click", (event) => {
  // Another tab marks examples, see `viewer_mark.js`.
  if (!state.photo || !state.takesClicks || part("stage").dataset.marking) return;
  const frame = part("photo").getBoundingClientRect();
  const place = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
  if (!place.every((share) => share >= 0 && share < 1)) return;
  state.clicks.push(place);
  part("stage").dataset.clicks = JSON.stringify(state.clicks);
  document.querySelector("#maft-go").click();
});
// What the button asks of the whole picture takes the clicks back, see `tabs/label.py`.
part("stage").addEventListener("whole", () => (state.clicks = []));
