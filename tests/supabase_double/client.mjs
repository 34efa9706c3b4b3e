// The official JavaScript client, told by lines on stdin what to do, and telling what it sees as JSON lines.
// Arguments: the project's URL, a key, the version of the Realtime protocol ("1.0.0" or "2.0.0").
import { createInterface } from "node:readline";
import { createClient } from "@supabase/supabase-js";
import WebSocket from "ws";

const [url, key, vsn] = process.argv.slice(2);
const tell = (what, value) => console.log(JSON.stringify({ what, value }));
const supabase = createClient(url, key, {
  auth: { persistSession: false, autoRefreshToken: false },
  realtime: { transport: WebSocket, vsn },
});
const channel = supabase
  .channel("room", { config: { broadcast: { self: true, ack: true } } })
  .on("postgres_changes", { event: "*", schema: "public", table: "notes" }, (change) =>
    tell("change", { type: change.eventType, new: change.new, old: change.old, errors: change.errors }))
  .on("broadcast", { event: "hi" }, (message) => tell("broadcast", message.payload))
  .on("system", {}, (message) => tell("system", message.message))
  .subscribe((state, error) => tell("state", state));

for await (const line of createInterface({ input: process.stdin })) {
  const { command, value } = JSON.parse(line);
  if (command === "send") {
    tell("sent", await channel.send({ type: "broadcast", event: "hi", payload: value }));
  } else if (command === "rpc") {
    const { data, error, status } = await supabase.rpc(value.name, value.arguments);
    tell("answer", { data, code: error?.code ?? null, status });
  } else if (command === "leave") {
    tell("left", await supabase.removeChannel(channel));
  }
}
process.exit(0);
