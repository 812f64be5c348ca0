// Moments of videos: rows of the index with a start and an end in seconds. No DOM access.

/** The moment that an item is, as {start, end, at}; null for an image. */
export function momentOf({ metadata }) {
  const { start, end, frame_time: at } = metadata;
  if (!Number.isFinite(start) || !Number.isFinite(end) || !Number.isFinite(at)) return null;
  return { start, end, at };
}
