// A client of `litefs-watch serve` for Node 20 or newer, without any package.
import { realpathSync } from "node:fs";
import { fileURLToPath } from "node:url";

const SIDECAR = process.env.LITEFS_WATCH_URL ?? "http://127.0.0.1:20203";
const TOKEN = process.env.LITEFS_WATCH_TOKEN;

const ask = (path, query, headers, signal) =>
  fetch(`${SIDECAR}${path}?${new URLSearchParams(query)}`, {
    headers: TOKEN ? { ...headers, authorization: `Bearer ${TOKEN}` } : headers,
    signal,
  });

/** The status and the JSON of an answer; neither where there is none in time: a sidecar that hangs keeps nobody waiting. */
async function answer(path, query, milliseconds) {
  try {
    const response = await ask(path, query, {}, AbortSignal.timeout(milliseconds));
    return [response.status, await response.json()];
  } catch {
    return [];
  }
}

/** After COMMIT: the position to keep in the writer's cookie; null where it is not known: send their reads to the primary. */
export async function written(db) {
  const [status, where] = await answer("/position", { db }, 3000);
  return status === 200 ? where.position : null;
}

/** Before a read: "here"; "late" (read on the primary), or "lost" in a fail-over. */
export async function arrived(position, db, milliseconds = 500) {
  const [status] = await answer("/wait", { position, db, timeout: `${milliseconds}ms` }, milliseconds + 1000);
  return { 200: "here", 410: "lost" }[status] ?? "late";
}

/** What happens, until the sidecar ends; `last` is the last id that was seen: `missed` and `closing` have none. */
export async function* events(last) {
  const headers = { accept: "application/x-ndjson", ...(last && { "last-event-id": last }) };
  const response = await ask("/events", {}, headers);
  if (!response.ok) throw new Error(await response.text());
  let rest = "";
  for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

// node client.mjs DATABASE [POSITION]
if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const [db, position = await written(db)] = process.argv.slice(2);
  console.log(position, await arrived(position, db));
  for await (const event of events()) {
    console.log(event.type, event.role);
    break;
  }
}
