import static java.util.stream.Collectors.joining;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthGrpc;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import org.parfocal.v1.*;

/**
 * What a tool asks of Parfocal: who is there, one image predicted, a test set predicted by a job and judged by another.
 *
 * <p>Arguments: SERVICE QC CATALOG MODEL DATASET IMAGE WIDTH HEIGHT. SERVICE, QC, CATALOG: host:port; MODEL, DATASET:
 * s3://…; IMAGE: a file of uint16 pixels alone, little endian.
 *
 * <p>It needs Java 17, what protoc and its plug-in grpc-java make of proto/parfocal/v1, and of the group io.grpc
 * grpc-netty-shaded, grpc-protobuf, grpc-services and grpc-stub.
 */
public final class Tool {
  private static final String PROJECT = System.getenv().getOrDefault("PARFOCAL_PROJECT", "default");
  private static final int MOST_BYTES = 3 << 20;
  private static final Set<TargetKind> WITHOUT =
      Set.of(TargetKind.TARGET_KIND_NONE, TargetKind.TARGET_KIND_UNPAIRED_IMAGE);

  /** One image of an answer: C order, little endian. */
  private record Image(ImageHeader header, ByteArrayOutputStream pixels) {}

  public static void main(String[] arguments) throws Exception {
    if (arguments.length != 8) {
      System.err.println("Usage: Tool SERVICE QC CATALOG MODEL DATASET IMAGE WIDTH HEIGHT");
      System.exit(2);
    }
    try {
      use(connect(arguments[0]), connect(arguments[1]), connect(arguments[2]), arguments);
    } catch (StatusRuntimeException error) {
      System.err.println(explain(error));
      System.exit(1);
    } catch (IOException | IllegalStateException error) {
      System.err.println(error.getMessage());
      System.exit(1);
    }
  }

  private static void use(ManagedChannel work, ManagedChannel qc, ManagedChannel catalog, String[] arguments)
      throws Exception {
    String model = arguments[3];
    String dataset = arguments[4];
    System.out.println(
        "ping: " + HealthGrpc.newBlockingStub(work).check(HealthCheckRequest.getDefaultInstance()).getStatus());

    List<Method> methods = methods(work);
    for (Method method : methods) {
      String axes = method.getDataRequirements().getAxes();
      System.out.printf("method: %s %s %s %s%n", method.getName(), axes, method.getTask(), method.getTitle());
    }

    byte[] pixels = Files.readAllBytes(Path.of(arguments[5]));
    for (Image image : predict(work, model, pixels, Long.parseLong(arguments[7]), Long.parseLong(arguments[6]))) {
      ImageHeader header = image.header();
      System.out.printf("image: %s %s %s%n", header.getName(), header.getDtype(), header.getShapeList());
      Files.write(Path.of(header.getName() + ".raw"), image.pixels().toByteArray());
    }

    // A job: of the test images of a dataset, whose result is kept and can be traced.
    var prediction = PredictionSpec.newBuilder().setModelUri(model).setInputUri(dataset).setSplit("test");
    Job predicted = finish(work, StartJobRequest.newBuilder().setPrediction(prediction));
    String result = predicted.getOutputsList().stream()
        .filter(output -> output.getKind().equals("result")).findFirst().orElseThrow().getUri();

    // Quality control has a method for each task; here that which compares with the targets, image by image.
    String name = details(catalog, model).getMethod();
    Task task = methods.stream().filter(each -> each.getName().equals(name)).findFirst().orElseThrow().getTask();
    Method judge = methods(qc).stream()
        .filter(each -> each.getTask() == task && each.getJobKindsList().contains(JobKind.JOB_KIND_EVALUATION)
            && !WITHOUT.contains(each.getDataRequirements().getTarget()))
        .findFirst().orElseThrow();
    var evaluation = EvaluationSpec.newBuilder().setMethod(judge.getName()).setPredictionUri(result)
        .setDatasetUri(dataset).setSplit("test").setModelUri(model);
    finish(qc, StartJobRequest.newBuilder().setEvaluation(evaluation));

    EntryVerdict verdict = details(catalog, model).getVerdict();
    System.out.println("verdict: " + verdict.getState());
    verdict.getReasonsList().forEach(reason -> System.out.println("  " + reason));
  }

  /** Returns a channel whose calls carry the token, if there is one; without TLS it must not leave this machine. */
  private static ManagedChannel connect(String address) throws IOException {
    String authority = System.getenv().getOrDefault("PARFOCAL_TLS_CA", "");
    String token = System.getenv().getOrDefault("PARFOCAL_TOKEN", "");
    if (!token.isEmpty() && authority.isEmpty() && !address.matches("(127\\.0\\.0\\.1|localhost|\\[::1]):.*")) {
      throw new IOException("The token is not sent to " + address + " without TLS: set PARFOCAL_TLS_CA.");
    }
    var credentials = authority.isEmpty() ? InsecureChannelCredentials.create()
        : authority.equals("system") ? TlsChannelCredentials.create()
        : TlsChannelCredentials.newBuilder().trustManager(new File(authority)).build();
    Metadata caller = new Metadata();
    if (!token.isEmpty()) {
      caller.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
    }
    return Grpc.newChannelBuilder(address, credentials)
        .intercept(MetadataUtils.newAttachHeadersInterceptor(caller)).build();
  }

  /** Returns the code and reason of an error, for programs, and its text, for people. */
  private static String explain(StatusRuntimeException error) throws InvalidProtocolBufferException {
    String reason = "";
    var status = StatusProto.fromThrowable(error);
    for (Any detail : status == null ? List.<Any>of() : status.getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        reason = detail.unpack(ErrorInfo.class).getReason();
      }
    }
    return error.getStatus().getCode() + " " + reason + ": " + error.getStatus().getDescription();
  }

  private static List<Method> methods(ManagedChannel service) {
    var stub = MethodServiceGrpc.newBlockingStub(service);
    return stub.listMethods(ListMethodsRequest.getDefaultInstance()).getMethodsList();
  }

  private static ModelDetails details(ManagedChannel catalog, String model) {
    var request = GetEntryRequest.newBuilder().setUri(model).build();
    return CatalogServiceGrpc.newBlockingStub(catalog).getEntry(request).getEntry().getModel();
  }

  /** Sends one image (Y, X) and returns what the model makes of it; tables are left out here. */
  private static List<Image> predict(ManagedChannel service, String model, byte[] pixels, long height, long width)
      throws InterruptedException {
    List<Image> images = new ArrayList<>();
    CompletableFuture<Void> done = new CompletableFuture<>();
    var requests = MethodServiceGrpc.newStub(service).predictImage(new StreamObserver<PredictImageResponse>() {
      @Override public void onNext(PredictImageResponse answer) {
        switch (answer.getPartCase()) {
          case WARNING -> System.out.println("warning: " + answer.getWarning());
          case HEADER -> images.add(new Image(answer.getHeader(), new ByteArrayOutputStream()));
          case PIXELS -> images.get(images.size() - 1).pixels().writeBytes(answer.getPixels().toByteArray());
          default -> { }
        }
      }

      @Override public void onError(Throwable error) {
        done.completeExceptionally(error);
      }

      @Override public void onCompleted() {
        done.complete(null);
      }
    });
    var image = ImageHeader.newBuilder().addShape(height).addShape(width).setDtype("uint16").setAxes("YX");
    var header = PredictImageHeader.newBuilder().setModelUri(model).setImage(image);
    requests.onNext(PredictImageRequest.newBuilder().setHeader(header).build());
    for (int at = 0; at < pixels.length; at += MOST_BYTES) {
      var part = ByteString.copyFrom(pixels, at, Math.min(MOST_BYTES, pixels.length - at));
      requests.onNext(PredictImageRequest.newBuilder().setPixels(part).build());
    }
    requests.onCompleted();
    try {
      done.get();
    } catch (ExecutionException error) {
      throw (StatusRuntimeException) error.getCause();
    }
    return images;
  }

  /** Starts a job and returns it when it has ended; a job that failed says why in the same words as a call. */
  private static Job finish(ManagedChannel service, StartJobRequest.Builder request) {
    var jobs = JobServiceGrpc.newBlockingStub(service);
    request.setRequestId(UUID.randomUUID().toString()).setProject(PROJECT);
    Job job = jobs.startJob(request.build()).getJob();
    var reports = jobs.watchJob(WatchJobRequest.newBuilder().setProject(PROJECT).setJobId(job.getId()).build());
    while (reports.hasNext()) {
      job = reports.next().getJob();
    }
    String outputs = job.getOutputsList().stream().map(Output::getUri).collect(joining(" "));
    System.out.println(job.getId() + " " + job.getState() + " " + outputs);
    if (job.getState() != JobState.JOB_STATE_SUCCEEDED) {
      JobError error = job.getError();
      throw new IllegalStateException(error.getCode() + " " + error.getReason() + ": " + error.getText());
    }
    return job;
  }
}
