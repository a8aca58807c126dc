/** Changes of one letter (put in, taken out, exchanged) that lead from one word to the other. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const exchanged = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(exchanged, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

/** Of some names the one that is most likely meant by a misspelt word; undefined when none is near. */
export function nearest(word: string, names: readonly string[]): string | undefined {
  // Whoever writes a book for a name means none of them.
  if (word.length > 64) return undefined;
  return names
    .map((name) => ({ name, far: distance(word.toUpperCase(), name.toUpperCase()) }))
    .toSorted((a, b) => a.far - b.far)
    .find(({ name, far }) => far <= Math.max(2, name.length / 3))?.name;
}
