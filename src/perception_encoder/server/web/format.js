// Numbers, sizes, times and names as people read them.

const whole = new Intl.NumberFormat();
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export const count = (number) => whole.format(number);

/** "1 image", "1,204 images". */
export const counted = (number, one, many = `${one}s`) =>
  `${count(number)} ${number === 1 ? one : many}`;

export function bytes(number) {
  if (number === null || number === undefined) return "?";
  let value = number;
  for (const unit of ["bytes", "kB", "MB", "GB"]) {
    if (value < 1000)
      return `${value < 10 && unit !== "bytes" ? value.toFixed(1) : Math.round(value)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} TB`;
}

export const time = (written) => {
  const date = new Date(written);
  return Number.isNaN(date.valueOf()) ? String(written) : moment.format(date);
};

export const score = (cosine) => cosine.toFixed(2);

/** The last part of a path or address. */
export const fileName = (name) => name.split(/[\\/]/).filter(Boolean).pop() ?? name;

/** What an image shows, as far as its file's name tells: "cat-left-of-house.webp" becomes "cat left of house". */
export function spoken(name) {
  const text = fileName(name)
    .replace(/\.[A-Za-z0-9]{2,5}$/, "")
    .replace(/[-_+.]+/g, " ")
    .trim();
  return text || fileName(name);
}

export const pixels = (item) =>
  item.width && item.height ? `${item.width} × ${item.height}` : "? × ?";

const LABELS = { strong: "strong match", weak: "weak match", none: "less likely" };

/** What a label means, as text. */
export const meaning = (label) => LABELS[label] ?? "";
