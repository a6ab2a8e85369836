"""Deployment settings, read from environment variables that begin with PARFOCAL_.

Science parameters travel in requests; nothing here changes a result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of a service, a worker or a client; each field is PARFOCAL_<FIELD> in the environment."""

    model_config = SettingsConfigDict(env_prefix="PARFOCAL_", frozen=True, extra="ignore")

    listen: str = Field(default="127.0.0.1:50051", description="host:port a service listens on")
    services: str = Field(
        default="",
        description="host:port,… where clients find the services; behind one public address host:port/NAME/NAME/…",
    )
    catalog: str = Field(
        default="", description="host:port where clients find the catalogue; behind a public address host:port/catalog"
    )
    project: str = Field(default="default", description="project used when a request names none")

    access_file: Path | None = Field(
        default=None,
        description="TOML file that says who issues tokens and who has which role in which project; empty: no "
        "identities, and services listen on loopback only",
    )
    tokens_file: Path | None = Field(
        default=None, description="TOML file with the digests of the static tokens of machines; empty: there are none"
    )
    audit_file: Path | None = Field(
        default=None, description="file that a service adds a line of JSON to for each call it answers; empty: none"
    )
    acts_for: str = Field(
        default="", description="person that an operator's client acts for; what it makes is theirs; empty: nobody"
    )
    token: SecretStr = Field(
        default=SecretStr(""), description="token that a client shows to services; empty: that of `parfocal login`"
    )
    token_file: Path | None = Field(
        default=None, description="file with that token, read again when it changes, as Kubernetes mounts it"
    )

    tls_cert: Path | None = Field(
        default=None,
        description="PEM file with this process's certificate and those between it and the authority; a service then "
        "speaks TLS only, a client shows it to services that ask for one",
    )
    tls_key: Path | None = Field(default=None, description="PEM file with the key of that certificate")
    tls_ca: str = Field(
        default="",
        description="PEM file with the authorities that clients trust; `system`: the usual ones; empty: no TLS",
    )
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file with the authorities of clients; a service then answers only clients with a certificate",
    )
    unprotected: str = Field(
        default="",
        description="`anyone-on-this-network-may-read-and-change-everything` lets a service listen beyond loopback "
        "without TLS or without identities",
    )

    s3_endpoint: str = Field(default="http://127.0.0.1:9000", description="URL of the S3 store")
    s3_public_endpoint: str = Field(
        default="",
        description="URL under which clients reach the store, for the addresses that the catalogue signs; empty: the "
        "same as that of the services",
    )
    s3_access_key: SecretStr = Field(default=SecretStr(""), description="access key of the store")
    s3_secret_key: SecretStr = Field(default=SecretStr(""), description="secret key of the store")
    s3_region: str = Field(default="us-east-1", description="region of the store")
    bucket_datasets: str = Field(default="parfocal-datasets", description="bucket of the datasets")
    bucket_models: str = Field(default="parfocal-models", description="bucket of the models")
    bucket_results: str = Field(default="parfocal-results", description="bucket of the results")
    bucket_jobs: str = Field(default="parfocal-jobs", description="bucket of the jobs")
    bucket_derived: str = Field(
        default="parfocal-derived", description="bucket of what is shown of images and can be made again"
    )

    inboxes: str = Field(
        default="",
        description="folders outside Parfocal's buckets that projects may read, e.g. what a microscope writes to: "
        "`PROJECT=s3://BUCKET/PREFIX`, several with commas between them; the services' key must be able to read them",
    )

    state_dir: Path = Field(
        default=Path("~/.parfocal/state"), description="folder for the local cache, device locks and workers' logs"
    )
    max_active_jobs: int = Field(
        default=100, ge=1, description="jobs a service admits before it answers RESOURCE_EXHAUSTED"
    )
    max_workers: int = Field(default=1, ge=1, description="workers a service runs at the same time")
    in_memory_mib: float = Field(
        default=16.0,
        ge=0,
        description="MiB of the largest image, or output of a network, that a prediction keeps in memory; larger ones "
        "lie in the scratch folder, which must have room for them",
    )
    device: str = Field(
        default="device-0", description="name of the device lock shared by all services of a machine; empty: none"
    )
    devices: str = Field(
        default="",
        description="numbers of the GPUs that the services of this machine share, e.g. `0,1`: one lock and one worker "
        "at a time each, instead of `PARFOCAL_DEVICE`",
    )
    short_work_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="part of a device's time that single images and predictions may take from trainings, which hand "
        "the device over between two epochs; 0: trainings keep it to their end",
    )
    short_prediction_images: int = Field(
        default=50,
        ge=0,
        description="images of the largest prediction that trainings hand the device over to; larger ones wait for "
        "their turn as trainings do",
    )
    share_window_seconds: float = Field(
        default=600.0, gt=0, description="time that is looked back on for `PARFOCAL_SHORT_WORK_SHARE`"
    )
    lease_seconds: float = Field(
        default=15.0, gt=0, description="after this time without renewal another instance may take over"
    )
    checkpoint_seconds: float = Field(
        default=60.0, ge=0, description="least time between two checkpoints of a training; 0: after every epoch"
    )
    preview_share: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="part of a training's time that pictures of a validation image may take, which people see while it "
        "goes on; 0: there are none, 1: after every epoch",
    )
    grace_seconds: float = Field(
        default=2.0, gt=0, description="time between the mark of a cancelled job and the end of its worker by force"
    )
    spare_seconds: float = Field(
        default=5.0,
        ge=0,
        description="time for which a worker that has done a prediction waits for another one with the same model and "
        "parameters; 0: it ends at once",
    )
    fork_server_seconds: float = Field(
        default=600.0,
        ge=0,
        description="time without a job for which a service keeps a process that has loaded its framework, so that "
        "workers start within milliseconds; on Linux without a GPU; 0: each worker loads the framework itself",
    )
    warm_idle_seconds: float = Field(
        default=120.0, gt=0, description="time without an image after which the warm worker of PredictImage ends"
    )
    max_images: int = Field(
        default=8, ge=1, description="images PredictImage takes on at a time before it answers RESOURCE_EXHAUSTED"
    )
    image_wait_seconds: float = Field(
        default=120.0, ge=0, description="time an image of PredictImage waits for the device that other work has"
    )
    max_image_pixels: int = Field(default=2**28, ge=1, description="pixels of the largest image PredictImage takes")
    max_image_bytes: int = Field(default=2**30, ge=1, description="bytes of the largest image PredictImage takes")
    cache_gib: float | None = Field(
        default=None,
        ge=0,
        description="GiB that the local cache may hold; what jobs use stays in any case; empty: a quarter of its disk",
    )
    trash_days: float = Field(
        default=30.0,
        ge=0,
        description="days that what was deleted stays in the trash: records of jobs, and datasets, models and results, "
        "whose files also stay while something refers to them; 0: for ever",
    )
    result_days: float = Field(
        default=0.0,
        ge=0,
        description="days after which predictions and evaluations that can be made again go to the trash, unless "
        "something refers to them; projects may have other values in the access file (`result_days`); 0: never",
    )
    upload_days: float = Field(
        default=7.0, ge=0, description="days that an upload may take before what was sent of it is removed; 0: for ever"
    )
    log_days: float = Field(
        default=90.0, ge=0, description="days that the log of a worker stays after its last line; 0: for ever"
    )
    image: str = Field(default="", description="reference of the container image, for the record")

    health_listen: str = Field(
        default="", description="host:port where a service tells its health as well, and nothing else; empty: nowhere"
    )
    metrics_listen: str = Field(
        default="", description="host:port where a service answers Prometheus at `/metrics`; empty: nowhere"
    )
    capacity_dir: Path | None = Field(
        default=None,
        description="folder with what `parfocal methods METHOD --capacity` has measured; workers on a cluster then ask "
        "for the memory that their training needs; empty: none",
    )
    launcher: Literal["local", "kubernetes", "none"] = Field(
        default="local",
        description="where workers run: `local`, as processes beside the service, or `kubernetes`; `none`: an instance "
        "that runs no jobs and only predicts single images",
    )
    images_address: str = Field(
        default="",
        description="host:port of the instances that predict single images where workers run on a cluster; empty: none",
    )
    kubernetes_api: str = Field(
        default="https://kubernetes.default.svc", description="URL of the API of the cluster that workers run on"
    )
    kubernetes_account: Path = Field(
        default=Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        description="folder with `token`, `ca.crt` and `namespace` of the service account of a service on a cluster",
    )
    kubernetes_template: str = Field(
        default="", description="name of the PodTemplate that workers are made from; empty: `parfocal-<service>-worker`"
    )
    kubernetes_short_priority: str = Field(
        default="",
        description="name of the PriorityClass of predictions with at most `PARFOCAL_SHORT_PREDICTION_IMAGES` images, "
        "and of the WorkloadPriorityClass where Kueue has the queue; empty: none",
    )
    kubernetes_deadline_seconds: int = Field(
        default=604_800,
        ge=1,
        description="time after which a worker on a cluster is ended, including its wait for room",
    )
    kubernetes_keep_seconds: int = Field(
        default=3600, ge=60, description="time for which an ended worker's Kubernetes Job stays, with its log"
    )
    kubernetes_pull_seconds: float = Field(
        default=900.0, gt=0, description="time in which the image of a worker on a cluster must have been pulled"
    )

    @field_validator(
        "cache_gib",
        "access_file",
        "capacity_dir",
        "tokens_file",
        "audit_file",
        "token_file",
        "tls_cert",
        "tls_key",
        "tls_client_ca",
        mode="before",
    )
    @classmethod
    def _nothing_is_none(cls, value: object) -> object:
        """Read the empty variable of the documentation's table as such."""
        return None if value == "" else value

    @field_validator("metrics_listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value and not (host and port.isdecimal() and int(port) < 2**16):
            raise ValueError(f"must be host:port, such as 127.0.0.1:9464, not {value!r}")
        return value

    @field_validator("devices")
    @classmethod
    def _are_numbers(cls, value: str) -> str:
        numbers = [number.strip() for number in value.split(",") if number.strip()]
        if not all(number.isdecimal() for number in numbers) or len(set(numbers)) < len(numbers):
            raise ValueError(f"must be different numbers of GPUs, such as 0,1, not {value!r}")
        return ",".join(numbers)

    @field_validator("inboxes")
    @classmethod
    def _are_inboxes(cls, value: str, info: ValidationInfo) -> str:
        own = {name for field, name in info.data.items() if field.startswith("bucket_")}
        for part in filter(None, map(str.strip, value.split(","))):
            project, _, uri = part.partition("=")
            bucket, _, prefix = uri.removeprefix("s3://").partition("/")
            if not (project and uri.startswith("s3://") and bucket and prefix.strip("/")):
                raise ValueError(f"must be PROJECT=s3://BUCKET/PREFIX, several with commas between them, not {part!r}")
            if bucket in own:
                raise ValueError(f"must lie outside of Parfocal's own buckets, where all projects are, not {part!r}")
        return value

    @property
    def inbox_places(self) -> tuple[tuple[str, str], ...]:
        """Project and address of each inbox."""
        parts = [part.strip().partition("=") for part in self.inboxes.split(",") if part.strip()]
        return tuple((project.strip(), uri.strip()) for project, _, uri in parts)

    @property
    def device_numbers(self) -> tuple[str, ...]:
        """The numbers of the shared GPUs; none where the frameworks choose."""
        return tuple(self.devices.split(",")) if self.devices else ()

    @property
    def worker_count(self) -> int:
        """How many workers a service runs at the same time: no GPU stays without one."""
        return max(self.max_workers, len(self.device_numbers))

    @property
    def state_folder(self) -> Path:
        """The state folder with `~` resolved."""
        return self.state_dir.expanduser()
