// What the server calls items: images, and moments of videos, which have a start and an end in
// seconds. No DOM access.

import { clock, fileName, spoken } from "./format.js";

/** The moment that an item is, as {start, end, frame_time}; null for an image. */
export const momentOf = ({ moment }) => moment ?? null;

/** The name of an item's file, or of the file in an archive. */
export const nameOf = (item) => fileName(momentOf(item) ? item.uri : (item.member ?? item.uri));

/** What an item shows, as far as its name tells, and the second of a moment. */
export function spokenName(item) {
  const moment = momentOf(item);
  return moment ? `${spoken(item.uri)} at ${clock(moment.start)}` : spoken(item.member ?? item.uri);
}

const IS_MOMENT = Object.freeze({ column: "frame_time", op: "has" });

export const isMomentFilter = ({ column, op }) => column === IS_MOMENT.column && op === IS_MOMENT.op;

/** Filters that only moments of videos meet. */
export const onlyMoments = (filters) =>
  filters.some(isMomentFilter) ? filters : [...filters, { ...IS_MOMENT }];
