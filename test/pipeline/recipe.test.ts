import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { stringify } from "yaml";
import Quantize from "../../commands/quantize.js";
import { LapidaryError } from "../../src/base/errors.js";
import { blockType, blockTypes } from "../../src/blocks/table.js";
import { parseConfig } from "../../src/gemma4/config.js";
import { parseRecipe, readRecipe, withRecipe } from "../../src/pipeline/recipe.js";
import { recipeJsonSchema } from "../../src/pipeline/recipe-schema.js";
import { assignTypes, type Overrides } from "../../src/plan/assign.js";
import { findMix, MIX_NAMES } from "../../src/plan/mixes.js";
import { candidatesOf, configOf, factsOf } from "../plan/members.js";
import { nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { runCommand } from "../support/run-command.js";

const HEAD = "recipe: 1\nmix: Q4_0\n";
const LIST = `${HEAD}tensors:\n  - `;

/** What a text is refused with. */
function refusal(text: string): LapidaryError {
  try {
    parseRecipe(text, "recipe.yaml");
  } catch (error) {
    if (error instanceof LapidaryError) return error;
    throw error;
  }
  throw new Error("not refused");
}

function write(text: string | Uint8Array, folder = scratchFolder()): string {
  const path = join(folder, "recipe.yaml");
  writeFileSync(path, text);
  return path;
}

describe("a recipe", () => {
  it("says what it says", () => {
    const recipe = parseRecipe(
      `recipe: 1
name: my.q4-1
mix: q4_k_m
pure: true
output: Q6_K
embedding: q5_k
per_layer_embedding: Q4_0
tensors:
  - match: ffn_down
    type: Q6_K
  - { match: "blk\\\\.[0-2]\\\\.", type: Q8_0 }
fallback: stock
imatrix: sub/imatrix.gguf
keep_unused_kv: true
keep_split: true
`,
      "folder/recipe.yaml",
    );
    expect(recipe).toEqual({
      name: "my.q4-1",
      mix: "q4_k_m",
      imatrix: join("folder", "sub", "imatrix.gguf"),
      typeNames: {
        tensorTypes: [
          { pattern: "ffn_down", type: "Q6_K", where: "folder/recipe.yaml: tensors[0].match" },
          { pattern: String.raw`blk\.[0-2]\.`, type: "Q8_0", where: "folder/recipe.yaml: tensors[1].match" },
        ],
        output: "Q6_K",
        embedding: "q5_k",
        perLayerEmbedding: "Q4_0",
        pure: true,
        fallback: "stock",
      },
      keepUnusedKv: true,
      keepSplit: true,
    });
  });

  it("needs a version and a mix only, and may be JSON", () => {
    const recipe = parseRecipe('{"recipe": 1, "mix": "Q4_0"}', "recipe.json");
    expect(recipe).toMatchObject({ name: undefined, mix: "Q4_0", imatrix: undefined, keepSplit: false });
    expect(recipe.typeNames).toEqual({ tensorTypes: [], pure: false, fallback: "near" });
    expect(parseRecipe(`\u{FEFF}${HEAD}`, "recipe.yaml").mix).toBe("Q4_0");
  });

  it("may have aliases, and an importance matrix anywhere", () => {
    const { typeNames, imatrix } = parseRecipe(
      `${HEAD}output: &low Q4_0\nembedding: *low\nimatrix: /data/imatrix.gguf\n`,
      "recipe.yaml",
    );
    expect(typeNames).toMatchObject({ output: "Q4_0", embedding: "Q4_0" });
    expect(imatrix).toBe("/data/imatrix.gguf");
  });
});

describe("a recipe is refused, with the place,", () => {
  it.each([
    ["a bracket that is not closed", `${HEAD}tensors: [\n`, /^recipe\.yaml: line 4, column 1: Flow sequence/],
    ["a tab for indentation", `${HEAD}tensors:\n\t- x\n`, /^recipe\.yaml: line 4, column 1: /],
    ["a key that is there twice", `${HEAD}mix: Q8_0\n`, /line 3, column 1: the key "mix" is there twice/],
    ["a second document", `${HEAD}---\n${HEAD}`, /line \d, column 1: a second document/],
    ["a tag", "recipe: 1\nmix: !secret Q4_0\n", /line 2, column 6: Unresolved tag: !secret/],
    ["a tag for bytes", "recipe: 1\nmix: !!binary UTQ=\n", /line 2, column 6: Unresolved tag/],
    ["a list for a key", `${HEAD}? [a]\n: 1\n`, /line 3, column 3: this key is a list or a map/],
    ["an alias without an anchor", "recipe: 1\nmix: *none\n", /line 2, column 6: the alias \*none/],
    ["deep nesting", `${HEAD}tensors: ${"[".repeat(9999)}`, /line 3, column \d+: nested too deeply/],
    ["deep nesting in blocks", "- ".repeat(99_999), /line 1, column \d+: nested too deeply/],
  ])("for %s", (_, text, message) => {
    expect(refusal(text)).toMatchObject({
      code: "bad-recipe",
      exitCode: 2,
      message: expect.stringMatching(message) as string,
    });
  });

  it.each([
    ["nothing in it", "# nothing\n", "recipe.yaml: empty; expected at least recipe: 1"],
    [
      "a list",
      "- recipe\n",
      "expected a map of keys such as recipe and mix, found a list (line 1, column 1)",
    ],
    ["no version", "mix: Q4_0\n", "recipe.yaml: recipe: expected version 1, the key is missing"],
    [
      "another version",
      "recipe: 2\nmix: 7\nx: y\n",
      "recipe: expected version 1, found 2 (line 1, column 9)",
    ],
    ["a version in quotes", 'recipe: "1"\nmix: Q4_0\n', 'recipe: expected version 1, found "1"'],
    ["no mix", "recipe: 1\n", "recipe.yaml: mix: expected the name of a mix, the key is missing"],
    [
      "an empty mix",
      "recipe: 1\nmix:\n",
      "mix: expected the name of a mix, found nothing (line 2, column 5)",
    ],
    ["several mixes", "recipe: 1\nmix: [Q4_0, Q8_0]\n", "mix: expected the name of a mix, found a list"],
    [
      "a number for a type",
      `${HEAD}output: 4\n`,
      "output: expected the name of a type, found 4 (line 3, column 9)",
    ],
    ["a type of other tensors", `${HEAD}output: I8\n`, "output: I8 is not a type for weights"],
    ["yes for true", `${HEAD}pure: yes\n`, 'pure: expected true or false, found "yes" (line 3, column 7)'],
    ["yes in YAML 1.1", `%YAML 1.1\n---\n${HEAD}pure: yes\n`, 'pure: expected true or false, found "yes"'],
    ["another fallback", `${HEAD}fallback: far\n`, 'fallback: expected near or stock, found "far"'],
    [
      "a map for tensors",
      `${HEAD}tensors: {a: Q4_0}\n`,
      "tensors: expected a list of match and type, found a map",
    ],
    ["a word for a tensor", `${LIST}ffn\n`, 'tensors[0]: expected a map of match and type, found "ffn"'],
    [
      "a list in itself",
      `${HEAD}tensors: &a [*a]\n`,
      "tensors[0]: expected a map of match and type, found a list",
    ],
    [
      "no match",
      `${LIST}type: Q4_0\n`,
      "tensors[0].match: expected a regular expression, the key is missing",
    ],
    [
      "an empty expression",
      `${LIST}{match: "", type: Q4_0}\n`,
      "tensors[0].match: an empty expression finds",
    ],
    [
      "an expression that does not compile",
      `${LIST}{match: a, type: Q4_0}\n  - {match: ffn(, type: Q4_0}\n`,
      'tensors[1].match: "ffn(" is no regular expression: Invalid regular expression: /ffn(/: Unterminated group (line 5, column 13)',
    ],
    [
      "an expression that lower case turns round",
      `${LIST}{match: 'blk\\.\\D', type: Q4_0}\n`,
      String.raw`tensors[0].match: patterns are read in lower case, where \D means \d`,
    ],
    [
      "an expression of a length that no name has",
      `${LIST}{match: ${"(".repeat(100_000)}, type: Q4_0}\n`,
      "tensors[0].match: expected at most 1000 characters",
    ],
    ["a number for a name", `${HEAD}name: 4\n`, "name: expected text in quotes, found 4"],
    [
      "a path for a name",
      `${HEAD}name: ../x\n`,
      "name: expected letters, digits, dots, underscores and hyphens",
    ],
    [
      "the name of a part",
      `${HEAD}name: x-00001-of-00002\n`,
      "name: expected a name that is not that of a part",
    ],
    ["a name too long", `${HEAD}name: ${"x".repeat(101)}\n`, "name: expected at most 100 characters"],
    [
      "an empty path",
      `${HEAD}imatrix: ""\n`,
      "imatrix: expected a path, found an empty one (line 3, column 10)",
    ],
    ["a path with NUL", `${HEAD}imatrix: "a\\0"\n`, "imatrix: expected a path, which has no NUL characters"],
  ])("for %s", (_, text, message) => {
    expect(refusal(text)).toMatchObject({
      code: "bad-recipe",
      exitCode: 2,
      message: expect.stringContaining(message) as string,
    });
  });

  it.each([
    ["recipe: 1\nmx: Q4_0\n", 'recipe.yaml: there is no key "mx" (line 2, column 1).', "Did you mean mix?"],
    [`${HEAD}outputs: Q4_0\n`, 'there is no key "outputs" (line 3, column 1)', "Did you mean output?"],
    [`${LIST}{mach: a, type: Q4_0}\n`, 'tensors[0]: there is no key "mach"', "Did you mean match?"],
    [`${HEAD}quantization: x\n`, 'there is no key "quantization"', /^Known keys: recipe, name, mix, /],
    [`${HEAD}<<: {pure: true}\n`, 'there is no key "<<" (line 3, column 1)', /^Known keys/],
    [
      "recipe: 1\nmix: Q4_KM\n",
      'mix: there is no mix called "Q4_KM" (line 2, column 6)',
      "Did you mean Q4_K_M?",
    ],
    [`${HEAD}embedding: Q5K\n`, 'embedding: there is no type called "Q5K"', "Did you mean Q5_K?"],
    [
      `${LIST}{match: a, type: zzzzzz}\n`,
      'tensors[0].type: there is no type called "zzzzzz"',
      /^Use one of F32, /,
    ],
  ])("for a word that is near another one: %j", (text, message, advice) => {
    const error = refusal(text);
    expect(error).toMatchObject({ exitCode: 2, message: expect.stringContaining(message) as string });
    expect(error.advice).toMatch(advice);
  });

  it.each(["__proto__", "constructor", "prototype", "toString"])(
    "for the key %s, which does nothing",
    (key) => {
      for (const text of [
        `${HEAD}${key}: {pure: true}\n`,
        `${LIST}{match: a, type: Q4_0, ${key}: {x: 1}}\n`,
      ]) {
        expect(refusal(text).message).toContain(`there is no key "${key}"`);
      }
      expect(({} as { pure?: boolean }).pure).toBeUndefined();
    },
  );

  it("for aliases that multiply", () => {
    const lines = ["a: &a0 [x, x, x, x, x, x, x, x, x]"];
    for (let level = 1; level < 10; level++) {
      lines.push(`k${level}: &a${level} [${Array.from({ length: 9 }, () => `*a${level - 1}`).join(", ")}]`);
    }
    expect(refusal(`${HEAD}${lines.join("\n")}\n`).message).toMatch(/aliases/);
    const many = Array.from({ length: 101 }, () => "  - *a\n").join("");
    expect(refusal(`${HEAD}tensors:\n  - &a {match: a, type: Q4_0}\n${many}`).message).toMatch(
      /line 105, column 5: more than 100 aliases/,
    );
  });
});

describe("the file of a recipe", () => {
  it("has to be there, to be text, and to be small", async () => {
    const folder = scratchFolder();
    for (const [path, code, message] of [
      [join(folder, "none.yaml"), "no-recipe", /none\.yaml: there is no such file/],
      [folder, "no-recipe", /this is a folder/],
      [write(new Uint8Array([0x6d, 0xff, 0xfe])), "bad-recipe", /recipe\.yaml: not text in UTF-8/],
      [write(`${HEAD}#${"x".repeat(256 * 1024)}`), "bad-recipe", /larger than 256 KiB/],
    ] as const) {
      await expect(readRecipe(path)).rejects.toMatchObject({
        code,
        exitCode: 2,
        message: expect.stringMatching(message) as string,
      });
    }
  });
});

describe("whatever stands in the file", () => {
  /** Whether a text is read, or refused in the one way that there is. */
  function survives(text: string): boolean {
    try {
      parseRecipe(text, "recipe.yaml");
      return true;
    } catch (error) {
      return error instanceof LapidaryError && error.code === "bad-recipe" && error.exitCode === 2;
    }
  }

  it("as JSON, it is a recipe or refused", () => {
    fc.assert(fc.property(fc.json(), survives), { numRuns: 500 });
  });

  it("under the keys of a recipe, it is a recipe or refused", () => {
    const value = fc.oneof(
      fc.constantFrom("Q4_0", "near", true, 1, "ffn", "("),
      fc.jsonValue({ maxDepth: 3 }),
    );
    const entry = fc.record({ match: value, type: value }, { requiredKeys: [] });
    const keys = ["name", "pure", "output", "embedding", "fallback", "imatrix", "keep_split", "__proto__"];
    const recipe = fc.record(
      {
        recipe: fc.oneof(fc.constant(1), value),
        mix: value,
        tensors: fc.oneof(value, fc.array(fc.oneof(entry, value))),
        rest: fc.dictionary(fc.constantFrom(...keys), value),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(recipe, ({ rest, ...fields }) => survives(JSON.stringify({ ...fields, ...rest }))),
      { numRuns: 500 },
    );
  });

  it("as pieces of YAML, it is a recipe or refused", () => {
    const pieces = [
      "recipe: 1",
      "mix: ",
      "Q4_0",
      "\n",
      "  ",
      "- ",
      "? ",
      ": ",
      "&a ",
      "*a",
      "[",
      "]",
      "{",
      "}",
      "|\n",
    ];
    const more = [
      "'",
      '"',
      "#",
      "!!set ",
      "!x ",
      "---\n",
      "...\n",
      "%YAML 1.1\n",
      "<<: ",
      "tensors:",
      "match: ",
      ",",
    ];
    const text = fc.array(fc.oneof(fc.constantFrom(...pieces, ...more), fc.string()), { maxLength: 30 });
    fc.assert(
      fc.property(text, (parts) => survives(parts.join(""))),
      { numRuns: 1000 },
    );
  });

  it("a good recipe is read as it was written", () => {
    const type = fc.constantFrom(
      ...blockTypes.map(({ name }) => name).filter((name) => !/^(?:I\d+|F64)$/.test(name)),
    );
    const recipe = fc.record(
      {
        recipe: fc.constant(1),
        mix: fc.constantFrom(...MIX_NAMES),
        name: fc.stringMatching(/^[A-Za-z0-9._-]{1,20}$/),
        pure: fc.boolean(),
        output: type,
        per_layer_embedding: type,
        tensors: fc.array(fc.record({ match: fc.constantFrom("a", "^b.*", String.raw`\.[0-3]\.`), type })),
        fallback: fc.constantFrom("near", "stock"),
      },
      { requiredKeys: ["recipe", "mix"] },
    );
    fc.assert(
      fc.property(recipe, (wanted) => {
        const read = parseRecipe(stringify(wanted), "recipe.yaml");
        expect(read).toMatchObject({ mix: wanted.mix, name: wanted.name });
        expect(read.typeNames).toMatchObject({
          output: wanted.output,
          perLayerEmbedding: wanted.per_layer_embedding,
          pure: wanted.pure ?? false,
          fallback: wanted.fallback ?? "near",
        });
        expect(read.typeNames.tensorTypes?.map(({ pattern, type }) => ({ match: pattern, type }))).toEqual(
          wanted.tensors ?? [],
        );
      }),
    );
  });
});

describe("what stands beside a recipe", () => {
  const recipe = parseRecipe(
    `${HEAD}name: mine\nembedding: Q6_K\noutput: Q8_0\nimatrix: its.gguf\nkeep_split: true\ntensors: [{match: a, type: Q8_0}]\n`,
    "recipe.yaml",
  );
  const nothing = {
    imatrix: undefined,
    keepUnusedKv: false,
    keepSplit: false,
    splitMaxBytes: undefined,
    typeNames: {},
  };

  it("is nothing: the recipe decides", () => {
    expect(withRecipe(recipe, nothing)).toEqual({
      types: ["Q4_0"],
      name: "mine",
      imatrix: "its.gguf",
      typeNames: { ...recipe.typeNames, perLayerEmbedding: undefined },
      keepUnusedKv: false,
      keepSplit: true,
    });
  });

  it("goes before what it says", () => {
    const typeNames = {
      tensorTypes: [{ pattern: "b", type: "Q4_0" }],
      embedding: "Q4_0",
      pure: true,
      fallback: "stock" as const,
    };
    const both = withRecipe(recipe, { ...nothing, imatrix: "mine.gguf", splitMaxBytes: 1, typeNames });
    expect(both).toMatchObject({ imatrix: "mine.gguf", keepSplit: false });
    expect(both.typeNames).toMatchObject({
      embedding: "Q4_0",
      output: "Q8_0",
      pure: true,
      fallback: "stock",
    });
    expect(both.typeNames?.tensorTypes?.map(({ pattern }) => pattern)).toEqual(["b", "a"]);
  });
});

describe("quantize --recipe", () => {
  const quantize = (...argv: string[]) => runCommand(Quantize, [nanoCheckpoint, "--threads", "1", ...argv]);

  it("writes the bytes that the same choice in flags writes", async () => {
    const folder = scratchFolder();
    const recipe = write(
      `${HEAD}name: mixed
per_layer_embedding: Q8_0
tensors:
  - { match: 'blk\\.0\\.ffn_down', type: Q6_K }
  - { match: ffn_, type: Q8_0 }
keep_unused_kv: true
`,
      folder,
    );
    const tensors = ["--tensor-type", String.raw`blk\.0\.ffn_down=Q6_K`, "--tensor-type", "ffn_=Q8_0"];
    const flags = [
      "--type",
      "Q4_0",
      "--ple-type",
      "Q8_0",
      ...tensors,
      "--keep-unused-kv",
      "--fallback",
      "near",
    ];
    const byFlags = await quantize(...flags, "--out", join(folder, "flags.gguf"));
    const byRecipe = await quantize("--recipe", recipe, "--out", folder);
    expect([byFlags.code, byRecipe.code]).toEqual([0, 0]);
    const bytes = readFileSync(join(folder, "nano-e-mixed.gguf"));
    expect(bytes.equals(readFileSync(join(folder, "flags.gguf")))).toBe(true);

    const pattern = ["--tensor-type", String.raw`blk\.0\.ffn_down=Q8_0`];
    const over = ["--ple-type", "Q4_0", ...pattern, "--out", join(folder, "over.gguf"), "--json"];
    const overridden = await quantize("--recipe", recipe, ...over);
    const { artifacts } = JSON.parse(overridden.stdout) as {
      artifacts: [{ type: string; tensors: { name: string; type: string }[] }];
    };
    expect(artifacts[0].type).toBe("Q4_0");
    const types = new Map(artifacts[0].tensors.map(({ name, type }) => [name, type]));
    expect(types.get("per_layer_token_embd.weight")).toBe("Q4_0");
    expect(types.get("blk.0.ffn_down.weight")).toBe("Q8_0");
    expect(types.get("blk.1.ffn_down.weight")).toBe("Q8_0");
  });

  it("looks for the importance matrix beside the recipe, unless a flag names another", async () => {
    const folder = join(scratchFolder(), "recipes");
    mkdirSync(folder);
    const recipe = write(`${HEAD}imatrix: none.gguf\n`, folder);
    const out = ["--out", folder, "--dry-run"];
    const missing = await quantize("--recipe", recipe, ...out);
    expect(missing.code).toBe(2);
    expect(missing.stderr).toContain(`Error: ${join(folder, "none.gguf")}: `);
    const other = await quantize("--recipe", recipe, "--imatrix", "nowhere.dat", ...out);
    expect(other.stderr).toContain("Error: nowhere.dat: ");
  });

  it("names the entry whose expression finds no tensor", async () => {
    const recipe = write(`${LIST}{match: ffn_, type: Q8_0}\n  - {match: ffn_donw, type: Q8_0}\n`);
    const run = await quantize("--recipe", recipe, "--out", scratchFolder(), "--dry-run");
    expect(run.code).toBe(2);
    expect(run.stderr).toMatch(
      /^Error: .*recipe\.yaml: tensors\[1\]\.match: the tensor pattern "ffn_donw" finds no/,
    );
  });
});

describe("fallback", () => {
  it("is near in a recipe, unless the flag says stock", () => {
    const recipe = parseRecipe("recipe: 1\nmix: Q4_K_M\n", "recipe.yaml");
    const typeOf = (beside: { fallback?: "stock" | "near" }) => {
      const { typeNames } = withRecipe(recipe, {
        keepUnusedKv: false,
        splitMaxBytes: undefined,
        typeNames: beside,
      });
      const candidate = { name: "blk.0.ffn_up.weight", ne: [96, 8], kept: "BF16" as const };
      const facts = { layers: 1, experts: 0, headsPerKey: 1, importance: false };
      return assignTypes([candidate], findMix("Q4_K_M"), facts, { fallback: typeNames?.fallback })[0];
    };
    expect(typeOf({})).toBe("IQ4_NL");
    expect(typeOf({ fallback: "stock" })).toBe("Q5_0");
  });
});

describe("the example", () => {
  const path = "examples/e2b-q4.yaml";
  const nano = parseConfig(
    JSON.parse(readFileSync(join(nanoCheckpoint, "config.json"), "utf8")),
    "config.json",
  );

  it.each([
    ["E2B", configOf("E2B")],
    ["nano-e", nano],
  ])("plans %s as its comments say", async (member, config) => {
    const { mix, name, typeNames } = await readRecipe(path);
    expect([mix, name]).toEqual(["Q4_K_M", "e2b-q4"]);
    const candidates = candidatesOf(config);
    const facts = factsOf(config, false);
    const types = assignTypes(candidates, findMix(mix), facts, typeNames as Overrides);
    const plain = assignTypes(candidates, findMix(mix), facts);
    const bytesOf = (chosen: typeof types, pattern: RegExp): number =>
      candidates.reduce((sum, { name, ne }, index) => {
        const { values, bytes } = blockType(chosen[index] ?? "F32");
        return pattern.test(name) ? sum + (ne.reduce((a, b) => a * b, 1) / values) * bytes : sum;
      }, 0);
    for (const [index, candidate] of candidates.entries()) {
      const small = /\.(?:inp_gate|proj)\.weight$/.test(candidate.name);
      const table = candidate.name === "per_layer_token_embd.weight";
      expect(types[index]).toBe(table ? "Q4_0" : small ? "Q8_0" : plain[index]);
    }
    if (member !== "E2B") return;
    expect(bytesOf(plain, /per_layer_token_embd/) / 1e9).toBeCloseTo(1.93, 2);
    expect(bytesOf(types, /per_layer_token_embd/) / 1e9).toBeCloseTo(1.32, 2);
    expect(bytesOf(types, /\.(?:inp_gate|proj)\./) / 1e6).toBeCloseTo(29, 0);
    expect((bytesOf(plain, /./) - bytesOf(types, /./)) / 1e9).toBeCloseTo(0.6, 1);
  });
});

describe("docs/recipe.schema.json", () => {
  it("is what the build makes of the schema", () => {
    expect(readFileSync("docs/recipe.schema.json", "utf8")).toBe(recipeJsonSchema());
  });

  it("describes every key, and has both cases of names", () => {
    const schema = JSON.parse(recipeJsonSchema()) as {
      properties: Record<string, { description?: string }>;
      definitions: Record<"mix" | "type", { anyOf: [{ enum: string[] }, { pattern: string }] }>;
    };
    for (const { description } of Object.values(schema.properties)) expect(description).toMatch(/\.$/);
    for (const { anyOf } of Object.values(schema.definitions)) {
      const [{ enum: names }, { pattern }] = anyOf;
      for (const name of names) {
        expect(name.toLowerCase()).toMatch(new RegExp(pattern));
        expect(`${name}X`).not.toMatch(new RegExp(pattern));
      }
    }
  });
});
