/**
 * Bytes that can be read by range: a local file now, a remote one over HTTP later. Parsers take a
 * source and never open anything themselves.
 */
export interface ByteSource {
  /** Path or address, for messages. */
  readonly name: string;
  /** Total size in bytes. */
  readonly size: number;
  /**
   * Fills `target` with the bytes that start at `position`.
   * @throws FormatError when the range reaches beyond the end or the source ends early
   */
  read(target: Uint8Array, position: number): Promise<void>;
  close(): Promise<void>;
}

/** How a path (or address) becomes a source. */
export type OpenSource = (path: string) => Promise<ByteSource>;
