// Commands for a terminal that go with what the page shows, with the paths of its indexes.

/** A word of a POSIX shell's command line. */
export const quoted = (text) =>
  /^[\w@%+=:,./~-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\"'\"'")}'`;

const command = (...words) => words.filter(Boolean).join(" ");

export const addImages = (path, folder = "~/Pictures") =>
  command("pe index", quoted(folder), "--index", quoted(path));

export const readMetadata = (path) => command("pe index --refresh-metadata --index", quoted(path));

export const retryFailed = (path) => command("pe index --retry-failed --index", quoted(path));

export const listErrors = (path) => command("pe errors --index", quoted(path));

export const optimize = (path) => command("pe optimize --index", quoted(path));

export const serve = (paths) => command("pe serve", ...paths.map((path) => `--index ${quoted(path)}`));

export const serveWith = (model, paths) => command(serve(paths), "--model", quoted(model));

export const removeDuplicates = (path, tier) =>
  command("pe duplicates --index", quoted(path), "--tier", tier, "--script remove.sh");

/** Changes the model of an index; a server that serves it notices. */
export const reembed = (path, model) =>
  command("pe index --reembed", quoted(model), "--index", quoted(path));
