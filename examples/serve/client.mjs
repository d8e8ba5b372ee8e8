// A client of `litefs-watch serve` for Node 20 or newer, without any package.
const SIDECAR = process.env.LITEFS_WATCH_URL ?? "http://127.0.0.1:20203";
const TOKEN = process.env.LITEFS_WATCH_TOKEN;

const ask = (path, query, headers) =>
  fetch(`${SIDECAR}${path}?${new URLSearchParams(query)}`, {
    headers: TOKEN ? { ...headers, authorization: `Bearer ${TOKEN}` } : headers,
  });

/** After COMMIT: the position to keep in the writer's cookie; null where it is not known: send their reads to the primary. */
export async function written(db) {
  const response = await ask("/position", { db }).catch(() => null);
  return response?.ok ? (await response.json()).position : null;
}

/** Before a read: "here"; "late" (read on the primary), or "lost" in a fail-over. */
export async function arrived(position, db, timeout = "500ms") {
  const response = await ask("/wait", { position, db, timeout }).catch(() => null);
  await response?.text();
  return { 200: "here", 410: "lost" }[response?.status] ?? "late";
}

/** What happens, until the sidecar ends; `last` is the id of the last event that was seen. */
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
if (process.argv[1] === new URL(import.meta.url).pathname) {
  const [db, position = await written(db)] = process.argv.slice(2);
  console.log(position, await arrived(position, db));
  for await (const event of events()) {
    console.log(event.type, event.role);
    break;
  }
}
