import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { EventEmitter, once } from "node:events";
import type { Readable, Writable } from "node:stream";
import { scratchFolder } from "./convert.js";

/** Names under which distributions ship the browser. */
const PROGRAMS = ["chromium", "chromium-browser", "google-chrome"];

/** Longest wait for one reply of the browser, in milliseconds; a slow machine takes 5 s for a screenshot. */
const REPLY_LIMIT = 30_000;

type Fields = Record<string, unknown>;

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly params?: Fields;
  readonly sessionId?: string;
  readonly result?: Fields;
  readonly error?: { readonly message: string };
}

interface Attached {
  readonly sessionId: string;
  readonly targetInfo: { readonly url: string };
}

interface Waiting {
  resolve(result: Fields): void;
  reject(error: Error): void;
}

/** Path of the installed browser; `CHROMIUM` names another. */
function findChromium(): string {
  const wanted = process.env["CHROMIUM"];
  const names = wanted === undefined ? PROGRAMS : [wanted];
  const found = names.find((name) => spawnSync(name, ["--version"]).status === 0);
  if (found !== undefined) return found;
  throw new Error(
    `No browser: none of ${names.join(", ")} runs. On Debian and Ubuntu, ` +
      "apt-get install -y --no-install-recommends chromium installs it; CHROMIUM names another Chromium.",
  );
}

/**
 * A headless Chromium that is driven over pipes with the DevTools protocol. It resolves no name and reaches 127.0.0.1
 * only; what it asks for elsewhere, from any page or worker, stands in `outside`.
 */
export class Chromium {
  /** Addresses on other hosts than 127.0.0.1 that were asked for, even if the page's own policy forbids it. */
  readonly outside: string[] = [];
  /** Exceptions and console errors of all pages and workers. */
  readonly complaints: string[] = [];
  /** Sessions of all workers that were started, by the addresses of their scripts. */
  readonly workers = new Map<string, string>();
  readonly #process: ChildProcess;
  readonly #commands: Writable;
  readonly #waiting = new Map<number, Waiting>();
  readonly #events = new EventEmitter();
  #log = "";
  #ids = 0;

  private constructor(child: ChildProcess) {
    this.#process = child;
    this.#commands = child.stdio[3] as Writable;
    const replies = child.stdio[4] as Readable;
    let rest = Buffer.alloc(0);
    replies.on("data", (bytes: Buffer) => {
      rest = Buffer.concat([rest, bytes]);
      for (let end = rest.indexOf(0); end >= 0; end = rest.indexOf(0)) {
        this.#receive(JSON.parse(rest.toString("utf8", 0, end)) as Message);
        rest = rest.subarray(end + 1);
      }
    });
    child.stderr?.on("data", (bytes: Buffer) => (this.#log = (this.#log + bytes.toString()).slice(-4000)));
    // Writing to a browser that is gone is told by its exit below.
    this.#commands.on("error", () => undefined);
    child.once("exit", (code) => {
      const error = new Error(`Chromium has ended with ${code}: ${this.#log}`);
      for (const waiting of this.#waiting.values()) waiting.reject(error);
    });
  }

  static async start(): Promise<Chromium> {
    const child = spawn(
      findChromium(),
      [
        "--headless=new",
        // The sandbox refuses to run as root, and containers have a /dev/shm of 64 MiB.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--remote-debugging-pipe",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=900,900",
        `--user-data-dir=${scratchFolder()}`,
        "about:blank",
      ],
      { stdio: ["ignore", "ignore", "pipe", "pipe", "pipe"] },
    );
    await once(child, "spawn");
    const browser = new Chromium(child);
    await browser.send("Browser.getVersion");
    return browser;
  }

  /** Opens a page and waits until it is there; the session is what `send` and `evaluate` take. */
  async open(url: string): Promise<string> {
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    await this.#watch(sessionId as string);
    await this.send("Page.enable", {}, sessionId as string);
    const loaded = once(this.#events, `Page.loadEventFired ${String(sessionId)}`);
    await this.send("Page.navigate", { url }, sessionId as string);
    await loaded;
    return sessionId as string;
  }

  /** Sends one command of the protocol. */
  send(method: string, params: Fields = {}, sessionId?: string): Promise<Fields> {
    const id = ++this.#ids;
    const reply = new Promise<Fields>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${method}: no reply from Chromium`)), REPLY_LIMIT);
      const settled =
        <T>(settle: (value: T) => void) =>
        (value: T) => {
          clearTimeout(timer);
          this.#waiting.delete(id);
          settle(value);
        };
      this.#waiting.set(id, { resolve: settled(resolve), reject: settled(reject) });
    });
    this.#commands.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return reply;
  }

  /** Value of an expression in a page or worker, which may be a promise. */
  async evaluate(expression: string, session: string): Promise<unknown> {
    const { result, exceptionDetails } = await this.send(
      "Runtime.evaluate",
      { expression, awaitPromise: true, returnByValue: true },
      session,
    );
    if (exceptionDetails !== undefined) throw new Error(JSON.stringify(exceptionDetails));
    return (result as { value: unknown }).value;
  }

  /** Waits until an expression in the page is true. */
  async until(expression: string, session: string, limit: number): Promise<void> {
    const end = Date.now() + limit;
    while ((await this.evaluate(expression, session)) !== true) {
      if (Date.now() > end) throw new Error(`${limit} ms have passed, and this is not true: ${expression}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async close(): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const ended = once(this.#process, "exit");
    this.#commands.write(`${JSON.stringify({ id: ++this.#ids, method: "Browser.close" })}\0`);
    const timer = setTimeout(() => this.#process.kill("SIGKILL"), 5000);
    await ended;
    clearTimeout(timer);
  }

  /** Watches a target's requests and errors, and those of workers that it starts, before any of them runs. */
  async #watch(session: string): Promise<void> {
    const events = this.#events;
    events.on(`Network.requestWillBeSent ${session}`, (params: { request: { url: string } }) => {
      const { protocol, hostname } = new URL(params.request.url);
      const inside = ["data:", "blob:", "about:"].includes(protocol) || hostname === "127.0.0.1";
      if (!inside) this.outside.push(params.request.url);
    });
    // What a page's own policy forbids is no request for the network's events.
    events.on(`Log.entryAdded ${session}`, ({ entry }: { entry: { source: string; text: string } }) => {
      if (entry.source !== "security") return;
      this.outside.push(/https?:\/\/[^\s'"]+/.exec(entry.text)?.[0] ?? entry.text);
    });
    events.on(`Runtime.exceptionThrown ${session}`, (params: Fields) => {
      this.complaints.push(JSON.stringify(params["exceptionDetails"]));
    });
    events.on(`Runtime.consoleAPICalled ${session}`, (params: { type: string; args: unknown[] }) => {
      if (params.type === "error") this.complaints.push(JSON.stringify(params.args));
    });
    events.on(`Target.attachedToTarget ${session}`, ({ sessionId, targetInfo }: Attached) => {
      this.workers.set(targetInfo.url, sessionId);
      // A worker may be over before it is asked anything.
      this.#watch(sessionId).catch(() => undefined);
    });
    await this.send("Network.enable", {}, session);
    await this.send("Runtime.enable", {}, session);
    await this.send("Log.enable", {}, session);
    const autoAttach = { autoAttach: true, waitForDebuggerOnStart: true, flatten: true };
    await this.send("Target.setAutoAttach", autoAttach, session);
    await this.send("Runtime.runIfWaitingForDebugger", {}, session);
  }

  #receive({ id, method, params, sessionId, result, error }: Message): void {
    if (method !== undefined) this.#events.emit(`${method} ${sessionId ?? ""}`, params);
    const waiting = id === undefined ? undefined : this.#waiting.get(id);
    if (error === undefined) waiting?.resolve(result ?? {});
    else waiting?.reject(new Error(error.message));
  }
}
