import { LapidaryError } from "../base/errors.js";

/** Something about a Gemma 4 checkpoint, its config, its weights or its tokenizer that cannot be used. */
export class Gemma4Error extends LapidaryError {}
