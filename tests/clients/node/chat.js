// Streams one Chat call and prints what it saw as one JSON object:
//   node chat.js ADDRESS REQUEST_JSON [CANCEL_AFTER_DELTAS]
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address, request, cancelAfter] = process.argv.slice(2);
const protos = fileURLToPath(new URL("../../../protos", import.meta.url));
const definition = loader.loadSync("tpuserve/v1/generation.proto", {
  includeDirs: [protos],
  enums: String,
  longs: String,
  oneofs: true,
});
const { Generation } = grpc.loadPackageDefinition(definition).tpuserve.v1;

const client = new Generation(address, grpc.credentials.createInsecure());
const seen = { started: null, deltas: [], finished: null, status: null };
const call = client.Chat(JSON.parse(request), { deadline: Date.now() + 20_000 });
call.on("data", (chunk) => {
  if (chunk.event === "delta") {
    seen.deltas.push({ text: chunk.delta.text, tokenIds: chunk.delta.tokenIds });
    if (seen.deltas.length === Number(cancelAfter)) call.cancel();
  } else {
    seen[chunk.event] = chunk[chunk.event];
  }
});
// The status follows in any case; without a listener the error would end the process.
call.on("error", () => {});
call.on("status", ({ code, details }) => {
  seen.status = { code: grpc.status[code], details };
  process.stdout.write(JSON.stringify(seen) + "\n");
  client.close();
});
