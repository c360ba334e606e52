// Picture files to 8-bit grey values, as predict.py reads them.

const STRIP = 512; // rows of a picture that are copied at once: canvases have a largest size
const SHOWN = 448; // px, side of the picture on its card
const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

// Why a picture cannot be used: a key of messages.json and what its braces stand for.
export class PictureError extends Error {
  constructor(key, values = {}) {
    super(key);
    this.key = key;
    this.values = values;
  }
}

// Grey values (height x width) of a file, warnings, and a canvas of its middle square.
export async function readPicture(file, limits) {
  const bytes = new Uint8Array(await file.arrayBuffer().catch(() => new ArrayBuffer(0)));
  if (!bytes.length) throw new PictureError("failed_empty");
  if (text(bytes, 128, 4) === "DICM") throw new PictureError("failed_dicom");
  const deep = isPng(bytes) && bytes[24] === 16;
  if (isPng(bytes)) checkPng(bytes);
  if (isJpeg(bytes)) checkJpeg(bytes);
  const bitmap = await decode(file);
  const { width, height } = bitmap;
  if (width * height > limits.pixels) {
    throw new PictureError("failed_large", { width, height, allowed: limits.pixels });
  }
  const { grey, colourful } = readGrey(bitmap, limits);
  const warnings = [];
  if (deep) {
    // The browser keeps the upper 8 of 16 bits: enough if the values use all of them.
    if (grey.reduce((most, value) => Math.max(most, value), 0) < 128) {
      throw new PictureError("failed_deep");
    }
    warnings.push({ key: "warn_deep" });
  }
  if (colourful) warnings.push({ key: "warn_colour" });
  const shown = middleSquare(bitmap);
  bitmap.close();
  return { grey, width, height, warnings, shown };
}

function isPng(bytes) {
  return PNG.every((value, at) => bytes[at] === value);
}

function isJpeg(bytes) {
  return bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff;
}

function text(bytes, at, length) {
  return String.fromCharCode(...bytes.subarray(at, at + length));
}

// A browser shows what it has of a damaged file. Every chunk that a PNG needs must be sound.
function checkPng(bytes) {
  const view = new DataView(bytes.buffer);
  let ended = false;
  for (let at = 8; at + 12 <= bytes.length && !ended; ) {
    const length = view.getUint32(at);
    const next = at + 12 + length;
    if (next > bytes.length) break;
    const kind = text(bytes, at + 4, 4);
    const critical = kind[0] === kind[0].toUpperCase();
    if (critical && crc(bytes.subarray(at + 4, next - 4)) !== view.getUint32(next - 4)) {
      throw new PictureError("failed_damaged");
    }
    ended = kind === "IEND";
    at = next;
  }
  if (!ended) throw new PictureError("failed_damaged");
}

// A JPEG that is cut off lacks the mark of its end (FF D9).
function checkJpeg(bytes) {
  let at = bytes.length - 2;
  while (at > 1 && !(bytes[at] === 0xff && bytes[at + 1] === 0xd9)) at -= 1;
  if (at <= 1) throw new PictureError("failed_damaged");
}

const CRC = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function crc(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = CRC[(sum ^ byte) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

// Turned upright as the file says, its pixels as stored: colour profiles change grey values.
async function decode(file) {
  try {
    return await createImageBitmap(file, {
      colorSpaceConversion: "none",
      imageOrientation: "from-image",
    });
  } catch {
    throw new PictureError("failed_unreadable");
  }
}

function blackCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  return { canvas, context };
}

// Pillow's grey of a colour: ITU-R 601-2 in integers, which leaves grey pixels as they are.
function luminance(red, green, blue) {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}

// What is transparent becomes black, as the canvas is.
function readGrey(bitmap, limits) {
  const { width, height } = bitmap;
  const { context } = blackCanvas(width, Math.min(STRIP, height));
  const grey = new Uint8Array(width * height);
  const step = Math.floor(Math.sqrt(Math.floor((width * height) / 1e6))) + 1;
  let [coloured, looked] = [0, 0];
  for (let top = 0; top < height; top += STRIP) {
    const rows = Math.min(STRIP, height - top);
    context.fillRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, top, width, rows, 0, 0, width, rows);
    const rgba = context.getImageData(0, 0, width, rows).data;
    for (let i = 0; i < width * rows; i++) {
      const [red, green, blue] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
      grey[top * width + i] = luminance(red, green, blue);
      if ((i % width) % step === 0 && (top + Math.floor(i / width)) % step === 0) {
        looked += 1;
        const spread = Math.max(red, green, blue) - Math.min(red, green, blue);
        if (spread > limits.colourful) coloured += 1;
      }
    }
  }
  return { grey, colourful: coloured / looked >= limits.colour_share };
}

function middleSquare(bitmap) {
  const side = Math.min(bitmap.width, bitmap.height);
  const left = Math.floor((bitmap.width - side) / 2);
  const top = Math.floor((bitmap.height - side) / 2);
  const { canvas, context } = blackCanvas(SHOWN, SHOWN);
  context.imageSmoothingQuality = "high";
  context.imageSmoothingEnabled = side >= 64; // of fewer, each pixel is to be seen
  context.drawImage(bitmap, left, top, side, side, 0, 0, SHOWN, SHOWN);
  const image = context.getImageData(0, 0, SHOWN, SHOWN);
  for (let i = 0; i < image.data.length; i += 4) {
    const value = luminance(image.data[i], image.data[i + 1], image.data[i + 2]);
    image.data.fill(value, i, i + 3);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
