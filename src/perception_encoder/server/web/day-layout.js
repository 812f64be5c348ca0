// Lays a timeline out: months, days and squares of one size, known from the numbers of images alone,
// so that nothing moves while images load. No DOM access.

const MONTH = 54; // pixels of a month's heading
const DAY = 30; // pixels of a day's heading
const LEAST_COLUMNS = 3;

/**
 * Rows are {top, height, end, headings} or {top, height, end, tiles}, as in justified.js. Days that
 * fit beside each other share a row; months do not.
 */
export class DayLayout {
  /**
   * @param {object} size
   * @param {number} size.width
   * @param {number} size.target about how wide an image is.
   * @param {number} size.gap
   * @param {{day: string|null, count: number, at: number}[]} days in order; null: without a date.
   */
  constructor({ width, target, gap }, days) {
    Object.assign(this, { width, gap, caption: 0 });
    this.columns = Math.max(LEAST_COLUMNS, Math.round((width + gap) / (target + gap)));
    this.side = (width - gap * (this.columns - 1)) / this.columns;
    this.rows = [];
    this.bottom = 0;
    this.length = 0;
    let month;
    let band = []; // days beside each other
    let used = 0; // columns of the band
    const close = () => {
      if (band.length) this.#addBand(band);
      [band, used] = [[], 0];
    };
    for (const one of days) {
      const isNew = monthOf(one) !== month;
      if (isNew || used + one.count > this.columns) close();
      if (isNew) {
        month = monthOf(one);
        this.#add({ height: MONTH, headings: [{ month, left: 0, width }] });
      }
      band.push({ ...one, column: used });
      used += one.count;
    }
    close();
  }

  #addBand(band) {
    const step = this.side + this.gap;
    if (band[0].day !== null) {
      const headings = band.map(({ day, count, column }) => {
        const columns = Math.min(count, this.columns);
        return { day, count, left: column * step, width: columns * step - this.gap };
      });
      this.#add({ height: DAY, headings });
    }
    const number = band.reduce((sum, { count }) => sum + count, 0);
    for (let done = 0; done < number; done += this.columns) {
      const count = Math.min(this.columns, number - done);
      this.#addTiles(this.length, count, step);
    }
  }

  #addTiles(first, count, step) {
    const { side } = this;
    this.length += count;
    this.#add({
      height: side,
      get tiles() {
        return Array.from({ length: count }, (_, n) => ({
          at: first + n,
          left: n * step,
          width: side,
        }));
      },
    });
    this.bottom += this.gap;
  }

  #add(row) {
    row.top = this.bottom;
    row.end = this.length;
    this.bottom += row.height;
    this.rows.push(row);
  }
}

const monthOf = ({ day }) => day?.slice(0, 7) ?? null;
