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

// Times of cameras are those of a clock at the place: they are shown as they are, in no time zone.
const wall = (options) => new Intl.DateTimeFormat(undefined, { ...options, timeZone: "UTC" });
const months = wall({ month: "long", year: "numeric" });
const days = wall({ weekday: "short", day: "numeric", month: "short" });
const dates = wall({ dateStyle: "medium" });
const moments = wall({
  weekday: "short",
  day: "numeric",
  month: "short",
  year: "numeric",
  hour: "numeric",
  minute: "2-digit",
});

const shownBy = (form) => (written) => {
  const date = new Date(written.length > 10 ? `${written.slice(0, 19)}Z` : written);
  return Number.isNaN(date.valueOf()) ? written : form.format(date);
};

/** "2023-05" becomes "May 2023". */
export const month = shownBy(months);
/** "2023-05-04" becomes "Thu, May 4". */
export const day = shownBy(days);
/** "2023-05-04" becomes "May 4, 2023". */
export const date = shownBy(dates);
/** "2023-05-04T14:03:00" becomes "Thu, May 4, 2023, 2:03 PM". */
export const wallClock = shownBy(moments);

/** Seconds of a video as on a player's clock: "0:07", "1:02:30". */
export function clock(seconds) {
  const total = Math.max(0, Math.floor(seconds));
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(total / 3600), Math.floor(total / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(total % 60)}` : `${minutes}:${two(total % 60)}`;
}

/** "48.14° N, 11.58° E", with as many digits as are told apart. */
export function degrees(latitude, longitude, digits = 2) {
  const side = (value, above, below) =>
    `${Math.abs(value).toFixed(digits)}° ${value < 0 ? below : above}`;
  return `${side(latitude, "N", "S")}, ${side(longitude, "E", "W")}`;
}

/** "22–45° S": from one degree to another. */
export function span(low, high, above, below, digits) {
  const [from, to] = [low, high].map((one) => Math.abs(one).toFixed(digits));
  if (low >= 0) return `${from}–${to}° ${above}`;
  return high <= 0 ? `${to}–${from}° ${below}` : `${from}° ${below} – ${to}° ${above}`;
}

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
