/**
 * What a server, a proxy or a file's name says, made safe for a log and a terminal.
 *
 * @module
 */

const SHOWN = /^[\p{L}\p{M}\p{N}\p{P}\p{S} ]$/u;
const INVISIBLE = /\p{Default_Ignorable_Code_Point}/u; // some letters and marks among them

/** Escape what would move a cursor, begin a line, or hide or reorder text. */
export function printable(text: string): string {
  return Array.from(text, (one) => (SHOWN.test(one) && !INVISIBLE.test(one) ? one : escaped(one))).join("");
}

function escaped(one: string): string {
  const code = one.codePointAt(0) ?? 0;
  if (code < 0x80) return `\\x${code.toString(16).padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
}

/** A name as an error message shows it: quoted, printable, and at most 60 characters of it. */
export function quote(name: string): string {
  const shown = name.length > 60 ? `${name.slice(0, 60)}...` : name;
  return `"${printable(shown).replaceAll('"', '\\"')}"`;
}
