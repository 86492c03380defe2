// Requests to the server: JSON, and an answer as a stream of events.

async function messageOf(response) {
  const type = response.headers.get("content-type") || "";
  if (type.includes("application/json")) return (await response.json()).error;
  return `The server answered ${response.status}.`;
}

export async function get(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(await messageOf(response));
  return response.json();
}

export async function post(path, body, signal) {
  const raw = body instanceof Blob;
  const headers = { "content-type": raw ? "application/octet-stream" : "application/json" };
  const response = await fetch(path, { method: "POST", headers, body: raw ? body : JSON.stringify(body), signal });
  if (!response.ok) throw new Error(await messageOf(response));
  return response;
}

// Server-sent events in the response to a POST. `EventSource` sends only GET, which any other page may send too.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) if (block.startsWith("data: ")) yield JSON.parse(block.slice(6));
  }
}
