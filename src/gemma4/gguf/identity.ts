import type { ModelCard } from "../model-card.js";
import type { GgufEntries } from "./entries.js";
import { type ModelId, parseModelId, titleOf } from "./model-id.js";

const HUB = "https://huggingface.co/";
const HUB_ID = /^https?:\/\/huggingface\.co\/([^/]+\/[^/]+)$/;

/** Where a model says who it is. */
export interface IdentitySource {
  /** Name of the checkpoint's folder, or of the repository it came from. */
  readonly folderName: string;
  /** `_name_or_path` of the config. */
  readonly nameOrPath: string | null;
  readonly card: ModelCard;
  /** Number of values of all tensors of the file. */
  readonly totalParameters: number;
  /** Takes the place of every name found. */
  readonly name?: string | undefined;
}

/** Fields of the card that become text keys: [key after `general.`, names in the card, first found wins]. */
const CARD_TEXTS = [
  ["name", ["name", "model_name"]],
  ["author", ["author", "model_author", "model_creator"]],
  ["version", ["version", "model_version"]],
  ["organization", ["organization", "model_organization"]],
  ["finetune", ["finetune", "model_finetune"]],
  ["basename", ["basename", "model_basename", "model_type"]],
  ["description", ["description", "model_description"]],
  ["size_label", ["size_label", "model_size_label"]],
  ["license.name", ["license_name"]],
  ["license.link", ["license_link"]],
  ["source.url", ["url", "model_url"]],
  ["source.doi", ["doi", "model_doi"]],
  ["source.uuid", ["uuid", "model_uuid"]],
  ["source.repo_url", ["repo_url", "model_repo_url"]],
] as const;

type TextKey = (typeof CARD_TEXTS)[number][0];

function textOf(card: ModelCard, names: readonly string[]): string | undefined {
  for (const name of names) {
    const value = card.get(name);
    if (typeof value === "string") return value;
  }
  return undefined;
}

function listOf(card: ModelCard, name: string): string[] {
  const value = card.get(name);
  if (value === undefined) return [];
  return typeof value === "string" ? [value] : [...value];
}

/** What is known about a model that this one comes from. */
interface Origin {
  readonly name?: string;
  readonly version?: string;
  readonly organization?: string;
  readonly repoUrl?: string;
}

function originFrom(id: ModelId, repoUrl: string | undefined): Origin {
  return {
    ...(id.name === null ? {} : { name: titleOf(id.name) }),
    ...(id.version === null ? {} : { version: id.version }),
    ...(id.organization === null ? {} : { organization: titleOf(id.organization) }),
    ...(repoUrl === undefined ? {} : { repoUrl }),
  };
}

function originOf(reference: string, totalParameters: number): Origin {
  if (/^(?:https?|ssh):\/\//.test(reference)) {
    const id = HUB_ID.exec(reference)?.[1];
    return id === undefined
      ? { repoUrl: reference }
      : originFrom(parseModelId(id, totalParameters), reference);
  }
  const id = parseModelId(reference, totalParameters);
  const onHub = id.organization !== null && id.name !== null;
  return originFrom(id, onHub ? `${HUB}${id.organization}/${id.name}` : undefined);
}

function writeOrigins(entries: GgufEntries, key: string, origins: readonly Origin[]): void {
  entries.u32(`general.${key}.count`, origins.length);
  for (const [index, origin] of origins.entries()) {
    entries.text(`general.${key}.${index}.name`, origin.name);
    entries.text(`general.${key}.${index}.version`, origin.version);
    entries.text(`general.${key}.${index}.organization`, origin.organization);
    entries.text(`general.${key}.${index}.repo_url`, origin.repoUrl);
  }
}

/** The references under the first of these names that the card has; undefined when it has none. */
function references(card: ModelCard, names: readonly string[]): string[] | undefined {
  const name = names.find((name) => card.has(name));
  return name === undefined ? undefined : listOf(card, name);
}

/** Texts by key: the card first, then `_name_or_path`, then the folder's name. */
function collectTexts(source: IdentitySource): Map<TextKey, string> {
  const texts = new Map<TextKey, string>();
  const fill = (key: TextKey, value: string | null | undefined): void => {
    if (value !== null && value !== undefined && !texts.has(key)) texts.set(key, value);
  };
  for (const [key, names] of CARD_TEXTS) fill(key, textOf(source.card, names));
  const path = source.nameOrPath;
  // More than one slash: a path on somebody's machine, not a model's name.
  const ids = path !== null && path.split("/").length <= 2 ? [path, source.folderName] : [source.folderName];
  for (const id of ids) {
    const parts = parseModelId(id, source.totalParameters);
    fill("name", parts.name === null ? null : titleOf(parts.name));
    fill("organization", parts.organization === null ? null : titleOf(parts.organization));
    fill("basename", parts.basename);
    fill("finetune", parts.finetune);
    fill("version", parts.version);
    fill("size_label", parts.sizeLabel);
  }
  if (source.name !== undefined) texts.set("name", source.name);
  return texts;
}

/**
 * Writes `general.name` to `general.languages`: what model card, config and folder name say about the
 * model, by the rules of llama.cpp's converter.
 *
 * @param fallbackSizeLabel written when none of them names a size
 */
export function writeIdentity(entries: GgufEntries, source: IdentitySource, fallbackSizeLabel: string): void {
  const { card, totalParameters } = source;
  const texts = collectTexts(source);
  const write = (...keys: TextKey[]): void => {
    for (const key of keys) entries.text(`general.${key}`, texts.get(key));
  };
  write("name", "author", "version", "organization", "finetune", "basename", "description");
  entries.text("general.size_label", texts.get("size_label") ?? fallbackSizeLabel);
  entries.text("general.license", listOf(card, "license").join(","));
  write("license.name", "license.link", "source.url", "source.doi", "source.uuid", "source.repo_url");
  const models = references(card, ["base_model", "base_models", "base_model_sources"]);
  if (models !== undefined) {
    writeOrigins(
      entries,
      "base_model",
      models.map((id) => originOf(id, totalParameters)),
    );
  }
  const datasets = references(card, ["datasets", "dataset", "dataset_sources"]);
  if (datasets !== undefined) {
    writeOrigins(
      entries,
      "dataset",
      datasets.map((id) => originOf(id, totalParameters)),
    );
  }
  entries.texts("general.tags", [...listOf(card, "tags"), ...listOf(card, "pipeline_tag")]);
  entries.texts("general.languages", [...listOf(card, "languages"), ...listOf(card, "language")]);
}
