// Web Mercator: the world as a square, 0 to 1 to the right and down. No DOM access.
//
// A rectangle of this map is one of latitudes and longitudes, so filters can say what a window shows.

const NORTHERNMOST = 85; // degrees; what is beyond is drawn there

const inRadians = (degrees) => (degrees * Math.PI) / 180;

export const toX = (longitude) => longitude / 360 + 0.5;
export const toY = (latitude) => {
  const bounded = Math.max(-NORTHERNMOST, Math.min(NORTHERNMOST, latitude));
  return 0.5 - Math.log(Math.tan(Math.PI / 4 + inRadians(bounded) / 2)) / (2 * Math.PI);
};
const toLongitude = (x) => (x - 0.5) * 360;
const toLatitude = (y) => (Math.atan(Math.sinh((0.5 - y) * 2 * Math.PI)) * 180) / Math.PI;

const POLE = toY(NORTHERNMOST);

/** A rectangle in degrees; one that reaches beyond the map reaches to the poles. */
export const toRegion = ({ left, right, top, bottom }) => ({
  south: bottom >= 1 - POLE ? -90 : toLatitude(bottom),
  north: top <= POLE ? 90 : toLatitude(top),
  west: Math.max(-180, toLongitude(left)),
  east: Math.min(180, toLongitude(right)),
});

/** The world's width at a latitude, in kilometers. */
export const widthAt = (latitude) => 40_075 * Math.cos(inRadians(latitude));

/**
 * The cells of a grid that cover a region, and as much again on each side of it: the grid is the
 * same for each region, so that clusters stay where they are while one moves.
 * @param {number} cell at least so many degrees.
 * @returns {{cell: number, columns: number, south, north, west, east}}
 */
export function gridOver({ south, north, west, east }, cell) {
  const size = 360 / 2 ** Math.max(2, Math.floor(Math.log2(360 / cell))); // exact as a float
  const [wide, tall] = [(east - west) / 2, (north - south) / 2];
  const below = (degrees, least) => Math.max(least, Math.floor(degrees / size) * size);
  const above = (degrees, most) => Math.min(most, Math.ceil(degrees / size) * size);
  const grid = { south: below(south - tall, -90), north: above(north + tall, 90) };
  grid.west = below(west - wide, -180);
  grid.east = above(east + wide, 180);
  return { ...grid, cell: size, columns: Math.round((grid.east - grid.west) / size) };
}

/** The cell of a grid that a point is in, as a region without its northern and eastern edge. */
export function cellOf({ cell, south, west }, { latitude, longitude }) {
  const row = Math.floor((latitude - south) / cell) * cell + south;
  const column = Math.floor((longitude - west) / cell) * cell + west;
  return { south: row, north: row + cell, west: column, east: column + cell };
}

/** Whether a region is within another. */
export const isWithin = (inner, outer) =>
  inner.south >= outer.south &&
  inner.north <= outer.north &&
  inner.west >= outer.west &&
  inner.east <= outer.east;
