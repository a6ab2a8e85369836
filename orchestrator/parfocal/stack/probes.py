"""Readiness checks: each asks a server for what its users will ask of it.

A check returns an empty text when the server is ready, else why not yet. It never raises and takes at most a
few seconds. Proxy settings of the environment are ignored: everything is on loopback.
"""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from base64 import b64encode
from datetime import datetime
from typing import Any

from parfocal.stack.config import Buckets
from parfocal.stack.credentials import Credentials

_TIMEOUT = 2.0
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def store_ready(endpoint: str, credentials: Credentials, buckets: Buckets) -> str:
    """Check the S3 store by writing, reading and deleting an object; missing buckets are made.

    Listing alone would not do: after a restart SeaweedFS lists at once but takes seconds until it can write.
    """
    # Imported late: the command line should not pay for it.
    import urllib3
    from minio import Minio

    pool = urllib3.PoolManager(timeout=urllib3.Timeout(_TIMEOUT), retries=False)
    client = Minio(
        endpoint.removeprefix("http://"),
        access_key=credentials.access_key,
        secret_key=credentials.secret_key,
        secure=False,
        region="us-east-1",
        http_client=pool,
    )
    try:
        present = {bucket.name for bucket in client.list_buckets()}
        for name in buckets.model_dump().values():
            if name not in present:
                client.make_bucket(name)
        client.put_object(buckets.jobs, _PROBE, io.BytesIO(b"ready"), 5)
        response = client.get_object(buckets.jobs, _PROBE)
        try:
            intact = response.data == b"ready"
        finally:
            response.close()
        client.remove_object(buckets.jobs, _PROBE)
    except Exception as error:
        return f"{endpoint}: {_first_line(error)}"
    finally:
        pool.clear()
    return "" if intact else f"{endpoint}: an object came back changed"


_PROBE = ".parfocal-ready"


def prefect_ready(api_url: str) -> str:
    """Check that the Prefect server at `api_url` (``…/api``) answers and reaches its database."""
    answer, problem = _ask(f"{api_url}/ready")
    return problem if answer is None else ""


def portal_ready(url: str) -> str:
    """Check that the portal answers."""
    answer, problem = _ask(f"{url}/health")
    return problem if answer is None else ""


def runner_ready(api_url: str, since: datetime, auth: str = "") -> str:
    """Check that a flow runner that started at `since` has begun to ask for work.

    The server notes for each deployment when a runner last asked for its runs; deployments that an earlier runner
    left behind carry an earlier time.
    """
    answer, problem = _ask(f"{api_url}/deployments/filter", {"limit": 200}, auth)
    if answer is None:
        return problem
    polled = [row["last_polled"] for row in answer if row.get("last_polled")]
    if any(datetime.fromisoformat(text) >= since for text in polled):
        return ""
    return "no deployment is served yet"


def service_ready(address: str) -> str:
    """Check that the gRPC health service at ``host:port`` says SERVING for the whole server."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=""), timeout=_TIMEOUT
            )
        except grpc.RpcError as error:
            return f"{address}: {error.code().name}"
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return f"{address}: {name}"


def _ask(url: str, body: dict[str, Any] | None = None, auth: str = "") -> tuple[Any, str]:
    """Return the JSON answer of `url` and an empty text, or None and what went wrong."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {b64encode(auth.encode()).decode()}"}
    request = urllib.request.Request(url, data, headers)
    try:
        with _NO_PROXY.open(request, timeout=_TIMEOUT) as response:
            return json.load(response), ""
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return None, f"{url}: {_first_line(reason)}"


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
