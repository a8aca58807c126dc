#!/usr/bin/env node
import { flush, handle, run } from "@oclif/core";

try {
  await run(process.argv.slice(2), import.meta.url);
  await flush();
} catch (error) {
  // An unknown command is misuse like any other; the plugin that suggests a similar one ends with 127.
  if (error.oclif?.exit === 127) error.oclif.exit = 2;
  await handle(error);
}
