// Trains a model, applies it to images and downloads the results, with @grpc/grpc-js and nothing else of Parfocal's.
//
// npm install @grpc/grpc-js @grpc/proto-loader
// node client.mjs CATALOG SERVICE DATASET METHOD OUTPUT IMAGE…     CATALOG, SERVICE: host:port; run it beside proto/
import { createHash, randomUUID } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [catalogAddress, serviceAddress, dataset, method, output, ...images] = process.argv.slice(2);
const files = ["catalog_service", "job_service"].map((name) => `parfocal/v1/${name}.proto`);
const definition = await loader.load(files, {
  includeDirs: [process.env.PROTO ?? "proto"], keepCase: true, enums: String, longs: Number, oneofs: true, defaults: true,
});
const { CatalogService, JobService } = grpc.loadPackageDefinition(definition).parfocal.v1;
const insecure = grpc.credentials.createInsecure();
const catalog = new CatalogService(catalogAddress, insecure);
const jobs = new JobService(serviceAddress, insecure);
const call = (client, rpc, request) => promisify(client[rpc]).call(client, request);

// Starts a job and returns it when it has ended; every event is printed.
async function finish(request) {
  let { job } = await call(jobs, "StartJob", request);
  for await (const report of jobs.WatchJob({ job_id: job.id })) {
    job = report.job;
    if (report.event) console.log(job.id, report.event.event ?? job.state);
  }
  if (job.state !== "JOB_STATE_SUCCEEDED") throw new Error(`${job.state}: ${job.error?.text}`);
  return job;
}

// Sends files straight to the store, by requests that the catalogue has signed, and has them verified.
async function uploadInputs(requestId, paths) {
  const { upload, uri } = await call(catalog, "BeginUpload", { request_id: requestId, kind: "UPLOAD_KIND_INPUTS" });
  const contents = await Promise.all(paths.map((path) => readFile(path)));
  const announced = contents.map((data, number) => ({
    name: basename(paths[number]).normalize("NFC"), size: data.length, sha256: createHash("sha256").update(data).digest("hex"),
  }));
  const signed = await call(catalog, "SignUploads", { upload, files: announced });
  for (const [number, file] of signed.files.entries()) {
    for (const { method, url, headers, offset, length } of file.requests) {
      const body = contents[number].subarray(offset, offset + length);
      const { "Content-Length": _, ...sent } = headers;  // fetch sets it from the body
      const answer = await fetch(url, { method, headers: sent, body });
      if (!answer.ok) throw new Error(`${file.name}: the store answered ${answer.status}`);
    }
  }
  for await (const report of catalog.PublishUpload({ upload, files: announced })) console.log("verified", report.verified);
  return uri;
}

// Downloads all files of an entry.
async function download(uri, folder) {
  const parts = [];
  for await (const part of catalog.ReadFile({ uri })) parts.push(part.data);
  const manifest = JSON.parse(Buffer.concat(parts));
  // What a job wrote lies in the folder of its attempt, which downloads do not have.
  const names = manifest.files.map((file) => file.name.replace(/^a\d{4,}\//, ""));
  const signed = await call(catalog, "SignDownloads", { uri, names });
  for (const { name, sha256, request } of signed.files) {
    const data = Buffer.from(await (await fetch(request.url)).arrayBuffer());
    if (createHash("sha256").update(data).digest("hex") !== sha256) throw new Error(`${name} is damaged`);
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), data);
  }
  return names;
}

const { entries } = await call(catalog, "ListEntries", { kind: "ENTRY_KIND_DATASET", name: dataset });
console.log("datasets:", entries.map((entry) => `${entry.name}:${entry.version}`).join(", "));
const trained = await finish({
  request_id: randomUUID(),
  training: { method, dataset_uri: entries[0].uri, model: "from-javascript", parameters: { fields: { epochs: { numberValue: 2 } } } },
});
const model_uri = trained.outputs.find((each) => each.kind === "model").uri;
const request_id = randomUUID();
const input_uri = await uploadInputs(request_id, images);
const predicted = await finish({ request_id, prediction: { model_uri, input_uri } });
console.log(await download(predicted.outputs[0].uri, output));
