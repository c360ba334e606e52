// The map of where the network looks, height x width fields over the middle square: above 0 where a
// field speaks for pneumothorax, below 0 where it speaks for cardiomegaly.

const COLOURS = { cardiomegaly: [43, 108, 176], pneumothorax: [230, 97, 20] }; // of the map
const STRONGEST = 0.55; // opacity of the map's strongest field

function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

// A canvas that is laid over the picture: opaque where a field speaks strongly for a class.
export function overlayOf(map, [height, width], side) {
  const most = map.reduce((largest, value) => Math.max(largest, Math.abs(value)), 1e-12);
  const small = canvasOf(width, height);
  const image = new ImageData(width, height);
  map.forEach((value, field) => {
    const colour = COLOURS[value > 0 ? "pneumothorax" : "cardiomegaly"];
    const opacity = STRONGEST * (value / most) ** 2; // weak fields leave the picture clear
    image.data.set([...colour, 255 * opacity], 4 * field);
  });
  small.getContext("2d").putImageData(image, 0, 0);
  const overlay = canvasOf(side, side);
  overlay.className = "overlay";
  overlay.setAttribute("aria-hidden", "true");
  overlay.getContext("2d").drawImage(small, 0, 0, side, side);
  return overlay;
}

// In which ninth of the picture the strongest field lies; null where none speaks for the class.
export function placeOf(map, [height, width], decision) {
  const sign = decision === "pneumothorax" ? 1 : -1;
  let best = 0;
  map.forEach((value, field) => (best = sign * value > sign * map[best] ? field : best));
  if (sign * map[best] <= 0) return null;
  const row = Math.floor(((Math.floor(best / width) + 0.5) / height) * 3);
  const column = Math.floor((((best % width) + 0.5) / width) * 3);
  return `place_${row}${column}`;
}
