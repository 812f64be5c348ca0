// Parts of images as the address and the server write them: "ID#xywh=percent:25,25,50,50". No DOM
// access.

const KEY = "#xywh=";
const BOX = /^percent:(\d+(?:\.\d+)?),(\d+(?:\.\d+)?),(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)$/;

/** What the state's `like` names: an item's id, and the part of it that counts, null for all. */
export function splitPart(like) {
  const at = like.lastIndexOf(KEY);
  if (at < 0) return { item: like, crop: null };
  return { item: like.slice(0, at), crop: like.slice(at + KEY.length) };
}

/** The opposite of `splitPart`. */
export const joinPart = (item, crop) => (crop ? `${item}${KEY}${crop}` : item);

/** A box in percent of the image as text; whole hundredths are enough for any image. */
export const writeBox = ({ x, y, width, height }) =>
  `percent:${[x, y, width, height].map((one) => Math.round(100 * one) / 100).join(",")}`;

/** A written box in percent of the image, {x, y, width, height}; null where it is none. */
export function readBox(crop) {
  const found = BOX.exec(crop ?? "");
  if (!found) return null;
  const [x, y, width, height] = found.slice(1).map(Number);
  return width > 0 && height > 0 && x < 100 && y < 100 ? { x, y, width, height } : null;
}
