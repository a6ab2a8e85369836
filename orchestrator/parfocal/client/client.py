"""The client: finds the service for each piece of work, starts jobs and follows them."""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cached_property
from typing import Any, Self, TypeVar

from parfocal import v1
from parfocal.client.catalog import Catalog
from parfocal.client.channels import SettingsTokens, Tokens
from parfocal.client.services import Service, ServiceInfo, parse_addresses
from parfocal.client.single_images import OnFraction, PredictedImage, Stop, predict_image
from parfocal.client.watching import watch
from parfocal.runtime import traces
from parfocal.runtime.errors import InvalidInputError, NotFoundError, QueueFullError, UnavailableError
from parfocal.runtime.images.files import Image
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.names import check_name
from parfocal.runtime.store.store import Store

_T = TypeVar("_T")
_PAGE = 500


class Client:
    """Speaks to the services and the catalogue of one deployment. Safe to use from several threads.

    Parameters
    ----------
    settings
        Project and addresses; read from the environment (PARFOCAL_…) when None.
    services
        Addresses "host:port" that replace those of the settings.
    patience
        Seconds for which `watch` and `wait` bear services that do not answer before they give up.
    tokens
        Says who calls; the token of the settings when None.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        services: Sequence[str] = (),
        patience: float = 600.0,
        tokens: Tokens | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.project = check_name("project", self.settings.project)
        self.patience = patience
        shown = tokens or SettingsTokens(self.settings)
        named = next(iter(parse_addresses(self.settings.catalog)), "")
        self.catalog = Catalog(Service(named, self.settings, shown) if named else None, self.project)
        addresses = parse_addresses(",".join(services) or self.settings.services)
        self._services = [Service(address, self.settings, shown) for address in addresses]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all channels."""
        self.catalog.close()
        for service in self._services:
            service.close()

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of the services."""
        return tuple(service.address for service in self._services)

    @cached_property
    def store(self) -> Store:
        """The store, for programs that have its key and `parfocal-runtime[store]`; nothing here needs it."""
        return Store(self.settings)

    def services(self) -> list[ServiceInfo]:
        """Ask every service what it offers; one that does not answer has an error text."""
        return [info for _, info in self._ask_all()]

    def method(self, name: str) -> v1.Method:
        """Return the description of a method.

        Raises
        ------
        NotFoundError
            No service offers it; the message names what is offered.
        UnavailableError
            It is not offered by those services that answer, and some do not.
        """
        return self._find(name)[1]

    def devices(self, method: str) -> int:
        """Return how many devices jobs of a method can compute on at the same time; 0 where nobody knows."""
        offering = [info for info in self.services() if any(each.name == method for each in info.methods)]
        # Instances of one service share its devices.
        return max((info.devices for info in offering), default=0)

    def start(self, request: v1.StartJobRequest, *, wait_for_queue: bool = False) -> v1.Job:
        """Start a job at the service that offers its method.

        Parameters
        ----------
        request
            As made by `parfocal.client.requests`; an empty project means that of the client.
        wait_for_queue
            Wait while the service has as many jobs as it admits, instead of raising QueueFullError.
        """
        request = _copy(request)
        request.project = request.project or self.project
        about = {"project": request.project, "kind": request.WhichOneof("spec") or ""}
        with traces.span("start a job", about, root=True):
            services = self._find(self._method_name(request))[0]
            while True:
                try:
                    return _first(services, lambda service: service.call(service.jobs.StartJob, request).job)
                except QueueFullError as error:
                    if not wait_for_queue:
                        raise
                    time.sleep(min(max(error.retry_seconds, 1.0), 60.0))

    def get(self, job_id: str) -> v1.Job:
        """Return a job as it stands."""
        request = v1.GetJobRequest(project=self.project, job_id=job_id)
        return _first(self._require_services(), lambda service: service.call(service.jobs.GetJob, request).job)

    def jobs(
        self,
        states: Sequence[v1.JobState.ValueType] = (),
        *,
        project: str = "",
        limit: int | None = None,
        complete: bool = False,
    ) -> list[v1.Job]:
        """Return the jobs of a project, of all services that answer, newest first.

        Parameters
        ----------
        states
            Only jobs in these states; empty: all.
        project
            The project; empty: that of the client.
        limit
            The newest so many; None: all.
        complete
            Raise UnavailableError if a service does not answer: its jobs would be missing.
        """

        def ask(service: Service) -> list[v1.Job] | UnavailableError:
            size = _PAGE if limit is None else min(limit, _PAGE)
            request = v1.ListJobsRequest(project=project or self.project, states=states, page_size=size)
            found: list[v1.Job] = []
            try:
                while True:
                    answer = service.call(service.jobs.ListJobs, request)
                    found += answer.jobs
                    if not answer.next_page_token or (limit is not None and len(found) >= limit):
                        return found
                    request.page_token = answer.next_page_token
            except UnavailableError as error:
                return error

        answers = self._map(ask)
        errors = [answer for answer in answers if isinstance(answer, UnavailableError)]
        if errors and (complete or len(errors) == len(answers)):
            raise errors[0]
        # By id as well: two addresses may lead to the same service.
        jobs = {job.id: job for answer in answers if not isinstance(answer, UnavailableError) for job in answer}
        newest = sorted(jobs.values(), key=lambda job: (job.created_at.ToNanoseconds(), job.id), reverse=True)
        return newest[:limit]

    def watch(
        self, job_id: str, after_sequence: int = 0, stop: threading.Event | None = None
    ) -> Iterator[v1.WatchJobResponse]:
        """Report a job until it ends: each event after `after_sequence` once, and the job whenever it changes.

        Once `stop` is set the reports end within about a second, whether the job says anything or not. A stream that
        drops is resumed where it stopped, at any service that answers.

        Raises
        ------
        NotFoundError
            There is no such job.
        UnavailableError
            No service answered for longer than the client's patience. The job goes on regardless.
        """
        return watch(self._require_services(), self.project, job_id, after_sequence, self.patience, stop)

    def wait(self, job_id: str) -> v1.Job:
        """Return the job when it has ended, however it ended."""
        job: v1.Job | None = None
        for report in self.watch(job_id):
            job = report.job
        assert job is not None
        return job

    def cancel(self, job_id: str, *, keep_best: bool = False, why: str = "") -> v1.Job:
        """Ask a job to end; `keep_best` publishes the best weights of a training so far."""
        request = v1.CancelJobRequest(project=self.project, job_id=job_id, keep_best=keep_best, why=why)
        return _first(self._owners(job_id), lambda service: service.call(service.jobs.CancelJob, request).job)

    def resume(self, job_id: str) -> v1.Job:
        """Continue a failed or cancelled training from its last checkpoint."""
        request = v1.ResumeJobRequest(project=self.project, job_id=job_id)
        return _first(self._owners(job_id), lambda service: service.call(service.jobs.ResumeJob, request).job)

    def delete(self, job_id: str) -> None:
        """Move the record of an ended job to the trash; what it published stays."""
        request = v1.DeleteJobRequest(project=self.project, job_id=job_id)
        _first(self._owners(job_id), lambda service: service.call(service.jobs.DeleteJob, request))

    def predict_image(
        self,
        model_uri: str,
        image: Image,
        parameters: Mapping[str, Any] | None = None,
        *,
        on_fraction: OnFraction | None = None,
        stop: Stop | None = None,
    ) -> PredictedImage:
        """Return what a model makes of one image, at once; nothing is stored.

        Parameters
        ----------
        model_uri
            As returned by `model_uri`.
        image
            Pixels with the axes of the method, or a stack of them.
        parameters
            Of the prediction, those that differ from their defaults.
        on_fraction
            Called with the completed part while the service computes.
        stop
            Lets another thread end the prediction.

        Raises
        ------
        CancelledError
            Somebody asked `stop`.
        InvalidInputError
            The model cannot be applied to the image.
        QueueFullError
            The device is in use; `retry_seconds` says when to ask again.
        NotFoundError, UnavailableError
            There is no such model, or its service does not answer.
        """
        services = self._find(self._method_of(model_uri))[0]
        return _first(
            services,
            lambda service: predict_image(service, model_uri, image, parameters, on_fraction=on_fraction, stop=stop),
        )

    def preview(self, job_id: str, epoch: int, picture: str) -> bytes:
        """Return a picture of a training, which its record names, as PNG."""
        request = v1.ReadPreviewRequest(project=self.project, job_id=job_id, epoch=epoch, picture=picture)
        return _first(self._require_services(), lambda service: service.call(service.jobs.ReadPreview, request).png)

    def usage(self, project: str = "", month: str = "") -> v1.ListUsageResponse:
        """Return what a project (that of the client if empty) has used, in a month ("2026-11") or in all."""
        request = v1.ListUsageRequest(project=project or self.project, month=month)
        return _first(self._require_services(), lambda service: service.call(service.jobs.ListUsage, request))

    def dataset_uri(self, name: str) -> str:
        """Return the address of the dataset "name" (newest version) or "name:version"."""
        return self.catalog.entry("dataset", name).uri

    def model_uri(self, name: str) -> str:
        """Return the address of the model "name" (newest version) or "name:version"."""
        return self.catalog.entry("model", name).uri

    def _method_name(self, request: v1.StartJobRequest) -> str:
        if request.HasField("prediction"):
            return self._method_of(request.prediction.model_uri)
        spec = request.WhichOneof("spec")
        return str(getattr(request, spec).method) if spec else ""

    def _method_of(self, model_uri: str) -> str:
        try:
            return self.catalog.entry_at(model_uri).model.method
        except (NotFoundError, InvalidInputError) as error:
            raise NotFoundError(f"There is no published model at {model_uri}.") from error

    def _find(self, name: str) -> tuple[list[Service], v1.Method]:
        """Return the description of a method and all services that offer it: of several instances one is active."""
        answers = self._ask_all()
        found = [(service, method) for service, info in answers for method in info.methods if method.name == name]
        if found:
            return [service for service, _ in found], found[0][1]
        offered = sorted({method.name for _, info in answers for method in info.methods})
        silent = [info for _, info in answers if info.error]
        if silent and not offered:
            raise UnavailableError(silent[0].error)
        near = difflib.get_close_matches(name, offered, n=1, cutoff=0.6)
        text = f"No service offers the method {name!r}; offered: {', '.join(offered) or 'none'}."
        text += f" Did you mean {near[0]!r}?" if near else ""
        text += " `parfocal methods` says what else can be installed."
        if silent:
            addresses = ", ".join(info.address for info in silent)
            raise UnavailableError(f"{text} But {addresses} did not answer: see `parfocal status`.")
        raise NotFoundError(text)

    def _owners(self, job_id: str) -> list[Service]:
        name = self.get(job_id).service
        answers = self._ask_all()
        services = [service for service, info in answers if info.name == name]
        if services:
            return services
        silent = ", ".join(info.address for _, info in answers if info.error)
        raise UnavailableError(
            f"The service {name!r}, which has the job {job_id}, does not answer"
            + (f" (no answer from {silent})" if silent else " at any of the addresses")
            + ". Check that it runs (`parfocal status`) and try again."
        )

    def _ask_all(self) -> list[tuple[Service, ServiceInfo]]:
        services = self._require_services()
        return list(zip(services, self._map(Service.info), strict=True))

    def _map(self, ask: Callable[[Service], _T]) -> list[_T]:
        services = self._require_services()
        # Each thread has a copy of the caller's context, in which its trace is.
        contexts = [copy_context() for _ in services]
        with ThreadPoolExecutor(max_workers=min(len(services), 16)) as pool:
            return list(pool.map(lambda context, service: context.run(ask, service), contexts, services))

    def _require_services(self) -> list[Service]:
        if not self._services:
            raise UnavailableError(
                "No service is known. Start Parfocal with `parfocal up`, or name the services: "
                "--services host:port,… or PARFOCAL_SERVICES."
            )
        return self._services


def _first(services: Sequence[Service], ask: Callable[[Service], _T]) -> _T:
    """Return the first answer; the next service is asked only where one does not answer."""
    unavailable: UnavailableError | None = None
    for service in services:
        try:
            return ask(service)
        except UnavailableError as error:
            unavailable = error
    assert unavailable is not None
    raise unavailable


def _copy(request: v1.StartJobRequest) -> v1.StartJobRequest:
    copy: Any = v1.StartJobRequest()
    copy.CopyFrom(request)
    return copy  # type: ignore[no-any-return]
