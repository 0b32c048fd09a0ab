// Third part of the viewer: marks an object of the photo as an example, see `tabs/show_once.py`.

const marked = { path: null, line: null };
const marking = () => (state.photo && part("stage").dataset.marking) || "";
const placeOf = (event) => {
  const frame = part("photo").getBoundingClientRect();
  const share = (value, start, length) => Math.min(1, Math.max(0, (value - start) / length));
  return [share(event.clientX, frame.left, frame.width), share(event.clientY, frame.top, frame.height)];
};

function drawMark(path) {
  const frame = part("photo").getBoundingClientRect();
  const stage = part("stage").getBoundingClientRect();
  Object.assign(part("mark").style, {
    left: `${frame.left - stage.left}px`, top: `${frame.top - stage.top}px`,
    width: `${frame.width}px`, height: `${frame.height}px`,
  });
  const [[x0, y0], [x1, y1]] = [path[0], path[path.length - 1]];
  const corners = marking() === "box" ? [[x0, y0], [x1, y0], [x1, y1], [x0, y1]] : path;
  part("mark").firstElementChild.setAttribute("points", corners.map((place) => place.join(",")).join(" "));
  part("mark").style.display = "block";
}

part("stage").addEventListener("pointerdown", (event) => {
  if (!marking() || !event.isPrimary || event.button) return;
  event.preventDefault();
  part("stage").setPointerCapture(event.pointerId);
  marked.path = [placeOf(event)];
});
part("stage").addEventListener("pointermove", (event) => {
  if (!marked.path || marking() === "point") return;
  marked.path.push(placeOf(event));
  drawMark(marked.path);
});
part("stage").addEventListener("pointercancel", () => (marked.path = null));
part("stage").addEventListener("pointerup", (event) => {
  const path = marked.path;
  marked.path = null;
  if (!path || !marking()) return;
  path.push(placeOf(event));
  drawMark(path);
  const [[x0, y0], [x1, y1]] = [path[0], path[path.length - 1]];
  const box = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
  // As many corners as are looked at; a long drag has more.
  const step = Math.ceil(path.length / 1000);
  const outline = path.filter((_, index) => index % step === 0 || index === path.length - 1);
  const marks = { point: { point: [Math.min(x1, 0.999999), Math.min(y1, 0.999999)] }, box: { box }, outline: { outline } };
  part("stage").dataset.mark = JSON.stringify(marks[marking()]);
  document.querySelector("#maft-mark").click();
});
