// The result of a review of duplicates: a shell script, or a list of what to keep. No DOM access.
//
// The page deletes nothing. A line of the script acts only while an image of its group that is to
// be kept is still there.

const HEAD = `#!/bin/sh
# Redundant images that were chosen in a review of duplicates. Nothing has been removed yet: read
# this, delete the lines you do not want, and run it with sh.
`;

/**
 * @param {{kept: object[], removed: object[]}[]} groups decided ones; see `decided` in review.js.
 */
export function removalScript(groups) {
  const parts = groups
    .filter(({ kept, removed }) => kept.length && removed.length)
    .map(({ kept, removed }) => {
      const lines = kept.map((item) => `# keep: ${plain(item.name)}`);
      return ["", ...lines, ...removed.map((item) => removal(kept, item))].join("\n");
    });
  return `${HEAD}${parts.join("\n")}\n`;
}

/** The names of images that stay, one a line. */
export const keepList = (groups) =>
  `${groups.flatMap(({ kept }) => kept.map((item) => item.name)).join("\n")}\n`;

function removal(kept, item) {
  if (!isFile(item)) return `# in an archive or at a URL, stays: ${plain(item.name)}`;
  const guard = kept.find(({ uri }) => !uri.includes("://") && !hasControl(uri));
  if (hasControl(item.uri))
    return `# control characters in a name, remove by hand: ${plain(item.name)}`;
  const check = guard ? `[ -f ${quoted(guard.uri)} ] && ` : "";
  return `${check}rm -- ${quoted(item.uri)}`;
}

const isFile = ({ uri, member }) => member === null && !uri.includes("://");

const quoted = (text) => `'${text.replaceAll("'", "'\"'\"'")}'`;

const CONTROL = /[\p{Cc}\p{Zl}\p{Zp}]/u; // a line break would end the comment or the command

const hasControl = (text) => CONTROL.test(text);

const plain = (text) => text.replace(new RegExp(CONTROL, "gu"), "?");
