import { shown } from "../../errors.js";
import type { Scope } from "../scopes.js";
import type { ModelProto } from "../types.js";
import { irForOpset, isIrVersion, isOnnxDomain, MICROSOFT_DOMAIN, OPSETS } from "../versions.js";
import { type Findings, nodeLabel } from "./findings.js";

/** Versions of the format and of ONNX's own operators. */
export function lintVersions({ irVersion, opsetImport }: ModelProto, findings: Findings): void {
  const own = opsetImport.filter(({ domain }) => isOnnxDomain(domain));
  const [first, second] = own;
  const expected = `expected ${OPSETS[0]} to ${OPSETS.at(-1)}`;
  if (first === undefined) {
    findings.add("opset", null, `Unsupported opset: the model imports none of ONNX's own, ${expected}.`);
  } else if (second !== undefined) {
    const versions = own.map(({ version }) => version).join(" and ");
    findings.add("opset", null, `Unsupported opset: the model imports ${versions}, expected one.`);
  } else if (!OPSETS.includes(first.version)) {
    findings.add("opset", null, `Unsupported opset: the model imports ${first.version}, ${expected}.`);
  }
  if (!isIrVersion(irVersion)) {
    findings.add(
      "ir-version",
      null,
      `The IR version is ${irVersion}, expected one that came with these opsets.`,
    );
  } else if (first !== undefined && OPSETS.includes(first.version) && irVersion < irForOpset(first.version)) {
    const ir = irForOpset(first.version);
    findings.add("ir-opset", null, `The IR version is ${irVersion}, opset ${first.version} came with ${ir}.`);
  }
}

/** Every operator is of a domain that is imported, and the one norm that is often put into the wrong one. */
export function lintDomains(scope: Scope, findings: Findings): void {
  const told = new Set<string>();
  for (const [index, { opType, domain: named = "" }] of scope.nodes.entries()) {
    const domain = isOnnxDomain(named) ? "" : named;
    if (domain === MICROSOFT_DOMAIN && opType === "SimplifiedLayerNormalization") {
      const message = `SimplifiedLayerNormalization is of ${MICROSOFT_DOMAIN}, expected ONNX's own domain.`;
      findings.add("domain", nodeLabel(scope, index), message);
    }
    if (scope.domains.has(domain) || told.has(domain)) continue;
    // Once is enough: all nodes of the domain have the same flaw.
    told.add(domain);
    const rule = domain === MICROSOFT_DOMAIN ? "domain-import" : "domain";
    const whose = domain === "" ? "ONNX" : shown(domain);
    findings.add(rule, nodeLabel(scope, index), `${shown(opType)} is of ${whose}, which is not imported.`);
  }
}
