import { readFile, stat } from "node:fs/promises";
import { createHash } from "node:crypto";
import { z } from "zod";
import { writeFileAtomic } from "../../src/base/atomic-file.js";
import type { StatisticsHeader } from "../statistics/schema.js";
import { AllocationError } from "./errors.js";

const FORMAT_VERSION = 1;
/** Real: 600 weights of 20 types take 500 kB. */
const MAX_BYTES = 2 ** 24;

const number = z.number().nonnegative();
const name = z.string().min(1).max(512);

const schema = z.strictObject({
  formatVersion: z.literal(FORMAT_VERSION),
  /** SHA-256 of what the numbers depend on. */
  of: z.string().regex(/^[0-9a-f]{64}$/),
  /** By weight and type: nats a token, or where the weight is in a group what is in proportion to them. */
  weights: z.record(name, z.strictObject({ group: name.nullable(), losses: z.record(name, number) })),
  /** Nats a token for each unit, by group. */
  scales: z.record(name, number),
});

type List = z.infer<typeof schema>;

/** What rounding each weight to each type is estimated to cost, in a file that grows. */
export class SensitivityFile {
  readonly path: string;
  readonly #list: List;

  private constructor(path: string, list: List) {
    this.path = path;
    this.#list = list;
  }

  /**
   * Opens the file, or begins one. What another run has left of the same is taken up; of anything else it is forgotten.
   *
   * @param of headers of the statistics, and whatever else the numbers depend on
   * @throws AllocationError `sensitivity-damaged`
   */
  static async open(
    path: string,
    of: { readonly headers: readonly StatisticsHeader[]; readonly sampled: number },
  ): Promise<SensitivityFile> {
    const hash = createHash("sha256").update(JSON.stringify(of)).digest("hex");
    const fresh: List = { formatVersion: FORMAT_VERSION, of: hash, weights: {}, scales: {} };
    const found = await readList(path);
    return new SensitivityFile(path, found?.of === hash ? found : fresh);
  }

  has(weight: string, type: string): boolean {
    return (
      Object.hasOwn(this.#list.weights, weight) && Object.hasOwn(this.#list.weights[weight]!.losses, type)
    );
  }

  /** Group of a weight; null for one whose losses need no scale, undefined for one that is not known. */
  groupOf(weight: string): string | null | undefined {
    return Object.hasOwn(this.#list.weights, weight) ? this.#list.weights[weight]!.group : undefined;
  }

  scaleOf(group: string): number | undefined {
    return Object.hasOwn(this.#list.scales, group) ? this.#list.scales[group] : undefined;
  }

  /** Nats a token; undefined where it was not measured, or its group was not. */
  loss(weight: string, type: string): number | undefined {
    const value = this.raw(weight, type);
    const group = this.groupOf(weight);
    if (value === undefined || group === null) return value;
    const scale = group === undefined ? undefined : this.scaleOf(group);
    return scale === undefined ? undefined : value * scale;
  }

  /** What is in proportion to the loss inside a group. */
  raw(weight: string, type: string): number | undefined {
    return this.has(weight, type) ? this.#list.weights[weight]!.losses[type] : undefined;
  }

  /** @throws OutputError when the disk does not take it */
  async add(weight: string, group: string | null, losses: Readonly<Record<string, number>>): Promise<void> {
    const before = this.groupOf(weight) === group ? this.#list.weights[weight]!.losses : {};
    this.#list.weights[weight] = { group, losses: { ...before, ...losses } };
    await this.#write();
  }

  /** @throws OutputError when the disk does not take it */
  async scale(group: string, factor: number): Promise<void> {
    this.#list.scales[group] = factor;
    await this.#write();
  }

  async #write(): Promise<void> {
    await writeFileAtomic(this.path, `${JSON.stringify(this.#list)}\n`);
  }
}

async function readList(path: string): Promise<List | undefined> {
  const found = await stat(path).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw damaged(path, "cannot be read", error);
  });
  if (found === undefined) return undefined;
  if (!found.isFile() || found.size > MAX_BYTES)
    throw damaged(path, `is no file of at most ${MAX_BYTES} bytes`);
  let json: unknown;
  try {
    json = JSON.parse(await readFile(path, "utf8"));
  } catch (cause) {
    throw damaged(path, "is not JSON", cause);
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw damaged(path, `${issue?.path.join(".") || "the list"}: ${issue?.message ?? "is not as expected"}`);
}

function damaged(path: string, what: string, cause?: unknown): AllocationError {
  return new AllocationError("sensitivity-damaged", `${path}: ${what}.`, {
    advice: "Remove the file and measure again.",
    ...(cause === undefined ? {} : { cause }),
  });
}
