// Start-up of the program beside bare Node, in one run: median of 15 each, interleaved.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const run = fileURLToPath(new URL("../bin/run.js", import.meta.url));
const cases = {
  "node -e 0": ["-e", "0"],
  "lapidary --help": [run, "--help"],
  "lapidary convert --help": [run, "convert", "--help"],
};
const times = Object.fromEntries(Object.keys(cases).map((name) => [name, []]));
for (let round = 0; round < 15; round++) {
  for (const [name, args] of Object.entries(cases)) {
    const start = performance.now();
    const { status } = spawnSync(process.execPath, args, { stdio: "ignore" });
    if (status !== 0) throw new Error(`${name} exited with ${status}`);
    times[name].push(performance.now() - start);
  }
}
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const bare = median(times["node -e 0"]);
for (const [name, values] of Object.entries(times)) {
  const time = median(values);
  console.log(
    `${name.padEnd(26)} ${time.toFixed(0).padStart(5)} ms   ${(time / bare).toFixed(2)} × bare node`,
  );
}
