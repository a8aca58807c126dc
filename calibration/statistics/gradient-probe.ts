import { attr } from "../../formats/onnx/build.js";
import type { GradientProbe } from "../../src/gemma4/graph/backward.js";
import type { MatrixProduct } from "../../src/gemma4/graph/context.js";
import type { MatrixInput } from "./inputs.js";
import type { MomentPlan } from "./moments.js";
import { rowStatistics } from "./probe.js";

/** The two kinds of rows that are looked at: gradients, and inputs each times the length of its gradient. */
export interface ProductRows {
  readonly gradients: MatrixInput;
  readonly inputs: MatrixInput;
}

/** Name of the rows of a matrix, or of those of some of its rows. */
export function rowsName(
  kind: keyof ProductRows,
  { weight, rows }: { readonly weight: string; readonly rows?: MatrixProduct["rows"] },
): string {
  return `${kind}:${weight}${rows === undefined ? "" : `:${rows.first}`}`;
}

/** What is looked at of a product. */
function productRows({ weight, rows }: MatrixProduct): ProductRows {
  const [out, columns] = [rows?.count ?? weight.shape.at(-2)!, weight.shape.at(-1)!];
  const of = (kind: keyof ProductRows, width: number): MatrixInput => ({
    name: rowsName(kind, { weight: weight.name, rows }),
    weights: [weight],
    columns: width,
    experts: 0,
  });
  return { gradients: of("gradients", out), inputs: of("inputs", columns) };
}

/** A probe that adds nothing and notes the products of a step. */
export function notingGradientProbe(products: ProductRows[]): GradientProbe {
  return (_builder, product) => {
    products.push(productRows(product));
    return [];
  };
}

/** Sums over the rows of every product, so that the rows never leave the runtime. */
export function gradientStatisticsProbe(plans: ReadonlyMap<string, MomentPlan>): GradientProbe {
  return (builder, product, batch) => {
    const { gradients, inputs } = productRows(product);
    const flat = (input: MatrixInput, value: string): string =>
      builder.add("Reshape", `${input.name}/all`, [value, builder.integers([-1, input.columns])]);
    const g = flat(gradients, product.gradient);
    const squares = builder.add("Mul", `${gradients.name}/squares.all`, [g, g]);
    const sum = builder.add(
      "ReduceSum",
      `${gradients.name}/lengths.squared`,
      [squares, builder.integers([1])],
      {
        keepdims: attr.int(1),
      },
    );
    const lengths = builder.add("Sqrt", `${gradients.name}/lengths`, [sum]);
    const x = builder.add("Mul", `${inputs.name}/weighted`, [flat(inputs, product.x), lengths]);
    const rows = [
      [gradients, g],
      [inputs, x],
    ] as const;
    return rows.flatMap(([input, value]) =>
      rowStatistics(builder, input, { value, batch, plan: plans.get(input.name) }),
    );
  };
}
