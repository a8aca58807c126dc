import { VerifyError } from "./errors.js";
import type { Measurement } from "./measurement.js";
import type { VerifyResult } from "./verify.js";

/** Thresholds a file has to meet; those left out are not asked for. */
export interface Gates {
  /** Largest mean KL divergence from the reference, nats a token. */
  readonly maxDivergence?: number;
  /** Largest PPL(candidate) / PPL(reference); 1.01 allows one percent more. */
  readonly maxPerplexityRatio?: number;
  /** Smallest share of positions, 0…1, where both put the same token first. */
  readonly minTopAgreement?: number;
  /** Largest perplexity of the candidate itself. */
  readonly maxPerplexity?: number;
}

export interface GateFailure {
  readonly gate: keyof Gates;
  /** Over which windows it was missed. */
  readonly windows: "windows" | "longWindows";
  readonly limit: number;
  readonly measured: number;
  /** One sentence. */
  readonly message: string;
}

interface Rule {
  readonly name: string;
  /** Thresholds that can be meant. */
  readonly range: readonly [number, number];
  /** Whether the threshold is the smallest allowed value instead of the largest. */
  readonly floor: boolean;
  readonly needsReference: boolean;
  readonly measured: (block: Measurement) => number | undefined;
}

const rules: Readonly<Record<keyof Gates, Rule>> = {
  maxDivergence: {
    name: "mean KL divergence",
    range: [0, Infinity],
    floor: false,
    needsReference: true,
    measured: (block) => block.comparison?.divergence.value,
  },
  maxPerplexityRatio: {
    name: "perplexity ratio",
    range: [0, Infinity],
    floor: false,
    needsReference: true,
    measured: (block) => block.comparison?.ratio.value,
  },
  minTopAgreement: {
    name: "top-1 agreement",
    range: [0, 1],
    floor: true,
    needsReference: true,
    measured: (block) => block.comparison?.topAgreement.value,
  },
  maxPerplexity: {
    name: "perplexity",
    range: [1, Infinity],
    floor: false,
    needsReference: false,
    measured: (block) => block.perplexity.value,
  },
};

function asked(gates: Gates): [keyof Gates, Rule, number][] {
  return (Object.keys(rules) as (keyof Gates)[]).flatMap((gate) => {
    const limit = gates[gate];
    return limit === undefined ? [] : [[gate, rules[gate], limit] as [keyof Gates, Rule, number]];
  });
}

/**
 * Refuses thresholds that cannot be meant, before any work is done.
 *
 * @param hasReference whether there is a file to compare with
 * @throws VerifyError `gate-invalid`, exit code 2
 */
export function checkGateOptions(gates: Gates, hasReference: boolean): void {
  for (const [, { name, range, needsReference }, limit] of asked(gates)) {
    const [low, high] = range;
    if (!(limit >= low && limit <= high)) {
      const expected = high === Infinity ? `from ${low} up` : `from ${low} to ${high}`;
      throw new VerifyError(
        "gate-invalid",
        `The threshold for ${name} is ${limit}, expected a number ${expected}.`,
        { exitCode: 2 },
      );
    }
    if (needsReference && !hasReference) {
      throw new VerifyError("gate-invalid", `A threshold for ${name} needs a reference file.`, {
        exitCode: 2,
        advice: "Name the file to compare with.",
      });
    }
  }
}

/**
 * Holds a result against thresholds. The comparisons have to be met over the long windows too, because a
 * wrong attention mask shows only there; the perplexity itself is asked of the ordinary windows only.
 *
 * @returns what was missed; empty when all is well
 */
export function checkGates(
  result: Pick<VerifyResult, "windows" | "longWindows">,
  gates: Gates,
): GateFailure[] {
  const failures: GateFailure[] = [];
  for (const [gate, rule, limit] of asked(gates)) {
    for (const windows of ["windows", "longWindows"] as const) {
      const block = result[windows];
      if (block === null || (windows === "longWindows" && !rule.needsReference)) continue;
      const measured = rule.measured(block);
      if (measured === undefined || (rule.floor ? measured >= limit : measured <= limit)) continue;
      const where = windows === "longWindows" ? " over long windows" : "";
      failures.push({
        gate,
        windows,
        limit,
        measured,
        message: `The ${rule.name}${where} is ${measured.toPrecision(4)}, ${rule.floor ? "below" : "above"} the limit of ${limit}.`,
      });
    }
  }
  return failures;
}
