// What the server calls items: images, and moments of videos, which have a start and an end in
// seconds. No DOM access.

import { clock, counted, fileName, spoken } from "./format.js";

/** The moment that an item is, as {start, end, frame_time}; null for an image. */
export const momentOf = ({ moment }) => moment ?? null;

/** The name of an item's file, or of the file in an archive. */
export const nameOf = (item) => fileName(momentOf(item) ? item.uri : (item.member ?? item.uri));

/** How many moments the video has that an item stands for as a whole; 0 for all other items. */
export const numMomentsOf = ({ num_moments: count }) => count ?? 0;

/** What an item shows, as far as its name tells, and the second of a moment. */
export function spokenName(item) {
  const moment = momentOf(item);
  const number = numMomentsOf(item);
  if (number) return `${spoken(item.uri)}, ${counted(number, "moment")}`;
  return moment ? `${spoken(item.uri)} at ${clock(moment.start)}` : spoken(item.member ?? item.uri);
}

const IS_MOMENT = Object.freeze({ column: "frame_time", op: "has" });

export const isMomentFilter = ({ column, op }) => column === IS_MOMENT.column && op === IS_MOMENT.op;

const TIMES = new Set(["start", "end", "frame_time"]);

/** Whether filters tell moments of one video apart. */
export const areAboutMoments = (filters) =>
  filters.some((filter) => TIMES.has(filter.column) && !isMomentFilter(filter));

/** Filters that only moments of videos meet. */
export const onlyMoments = (filters) =>
  filters.some(isMomentFilter) ? filters : [...filters, { ...IS_MOMENT }];
