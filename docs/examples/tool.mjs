// What a tool asks of Parfocal: who is there, one image predicted, a test set predicted by a job and judged by another.
//
// npm install @grpc/grpc-js @grpc/proto-loader
// node tool.mjs SERVICE QC CATALOG MODEL DATASET IMAGE WIDTH HEIGHT
//   SERVICE, QC, CATALOG: host:port; MODEL, DATASET: s3://…; IMAGE: a file of uint16 pixels alone; run it beside proto/
import { randomUUID } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import protobuf from "protobufjs";  // proto-loader brings it

const [serviceAddress, qcAddress, catalogAddress, model, dataset, image, width, height] = process.argv.slice(2);
const files = ["catalog_service", "job_service", "method_service"].map((name) => `parfocal/v1/${name}.proto`);
const definition = await loader.load(files, {
  includeDirs: [process.env.PROTO ?? "proto"], keepCase: true, enums: String, longs: Number, oneofs: true, defaults: true,
});
const { CatalogService, JobService, MethodService } = grpc.loadPackageDefinition(definition).parfocal.v1;

// TLS, and the token of every call, where services ask who calls. Without TLS a token must not leave this machine.
const { PARFOCAL_TLS_CA: authority = "", PARFOCAL_TOKEN: token = "", PARFOCAL_PROJECT: project = "default" } = process.env;
const roots = authority && authority !== "system" ? await readFile(authority) : null;
const credentials = authority ? grpc.credentials.createSsl(roots) : grpc.credentials.createInsecure();
const caller = new grpc.Metadata();
if (token) caller.set("authorization", `Bearer ${token}`);
if (token && !authority) {
  const away = [serviceAddress, qcAddress, catalogAddress].filter((each) => !/^(127\.0\.0\.1|localhost|\[::1\]):/.test(each));
  if (away.length) throw new Error(`The token is not sent to ${away.join(", ")} without TLS: set PARFOCAL_TLS_CA.`);
}
const call = (client, rpc, request) => promisify(client[rpc]).call(client, request, caller);

// An error of a call carries a google.rpc.Status in its trailer: its ErrorInfo has the reason, for programs.
const rpc = protobuf.parse(`
  syntax = "proto3";
  package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; }
`, { keepCase: true }).root;
function explain(error) {
  const [trailer] = error.metadata?.get("grpc-status-details-bin") ?? [];
  const details = trailer ? rpc.lookupType("google.rpc.Status").decode(trailer).details : [];
  const info = details.find((detail) => detail.type_url.endsWith("/google.rpc.ErrorInfo"));
  const reason = info ? rpc.lookupType("google.rpc.ErrorInfo").decode(info.value).reason : "";
  return `${grpc.status[error.code]} ${reason}: ${error.details}`;
}

// The standard health check takes an empty message; its answer is one field with one byte, of which 1 means SERVING.
function ping(address) {
  const client = new grpc.Client(address, credentials);
  const check = promisify(client.makeUnaryRequest.bind(client));
  const answer = check("/grpc.health.v1.Health/Check", () => Buffer.alloc(0), (bytes) => bytes.at(-1) === 1, {});
  return answer.finally(() => client.close());
}

// Sends one image (Y, X) and returns what the model makes of it, by name.
function predict(client, model_uri, pixels, shape) {
  return new Promise((resolve, reject) => {
    const outputs = [], stream = client.PredictImage(caller);
    stream.on("error", reject);
    stream.on("end", () => resolve(outputs.map(({ header, parts }) => ({ ...header, pixels: Buffer.concat(parts) }))));
    stream.on("data", (answer) => {
      if (answer.part === "warning") console.log("warning:", answer.warning);
      if (answer.part === "header") outputs.push({ header: answer.header, parts: [] });
      if (answer.part === "pixels") outputs.at(-1).parts.push(answer.pixels);
    });
    stream.write({ header: { model_uri, image: { shape, dtype: "uint16", axes: "YX" } } });
    const most = 3 * 2 ** 20;
    for (let at = 0; at < pixels.length; at += most) stream.write({ pixels: pixels.subarray(at, at + most) });
    stream.end();
  });
}

// Starts a job and returns it when it has ended; a job that failed says why in the same words as a call.
async function finish(client, request) {
  let { job } = await call(client, "StartJob", { request_id: randomUUID(), project, ...request });
  for await (const report of client.WatchJob({ project, job_id: job.id }, caller)) job = report.job;
  console.log(job.id, job.state, ...job.outputs.map(({ uri }) => uri));
  if (job.state !== "JOB_STATE_SUCCEEDED") throw new Error(`${job.error?.code} ${job.error?.reason}: ${job.error?.text}`);
  return job;
}

try {
  console.log("ping:", await ping(serviceAddress));
  const work = new MethodService(serviceAddress, credentials), qc = new MethodService(qcAddress, credentials);
  const { methods } = await call(work, "ListMethods", {});
  for (const method of methods) console.log("method:", method.name, method.data_requirements.axes, method.task, method.title);

  for (const output of await predict(work, model, await readFile(image), [Number(height), Number(width)])) {
    console.log("image:", output.name, output.dtype, output.shape);
    await writeFile(`${output.name}.raw`, output.pixels);
  }

  // A job: of the test images of a dataset, whose result is kept and can be traced.
  const prediction = { model_uri: model, input_uri: dataset, split: "test" };
  const predicted = await finish(new JobService(serviceAddress, credentials), { prediction });
  const prediction_uri = predicted.outputs.find(({ kind }) => kind === "result").uri;

  // Quality control has a method for each task; here that which compares with the targets, image by image.
  const catalog = new CatalogService(catalogAddress, credentials);
  const { entry } = await call(catalog, "GetEntry", { uri: model });
  const { task } = methods.find(({ name }) => name === entry.model.method);
  const without = ["TARGET_KIND_NONE", "TARGET_KIND_UNPAIRED_IMAGE"];
  const { name: method } = (await call(qc, "ListMethods", {})).methods.find((each) => each.task === task
    && each.job_kinds.includes("JOB_KIND_EVALUATION") && !without.includes(each.data_requirements.target));
  const evaluation = { method, prediction_uri, dataset_uri: dataset, split: "test", model_uri: model };
  await finish(new JobService(qcAddress, credentials), { evaluation });

  const { verdict } = (await call(catalog, "GetEntry", { uri: model })).entry.model;
  console.log("verdict:", verdict.state, ...verdict.reasons.map((reason) => `\n  ${reason}`));
} catch (error) {
  console.error(error.metadata ? explain(error) : error.message);
  process.exitCode = 1;
}
