"""What each RPC requires of its caller: the one table."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from parfocal.runtime.access.identity import Role


class Action(Enum):
    """A kind of access.

    Attributes
    ----------
    text
        What is done, for messages.
    role
        The least role in the project; None: the call is about no project.
    """

    PROBE = ("asking whether the service is healthy", None)
    LOOK_AROUND = ("asking what the service offers", None)
    READ = ("reading", Role.VIEWER)
    WORK = ("starting work", Role.USER)
    #: Users change what they have made themselves, operators what anybody has made.
    CHANGE = ("changing", Role.USER)

    #: Other projects get to read something.
    SHARE = ("sharing with other projects", Role.OPERATOR)

    def __init__(self, text: str, role: Role | None) -> None:
        self.text = text
        self.role = role


#: An RPC that is missing here is refused.
ACTIONS: Final[Mapping[str, Action]] = {
    "/parfocal.v1.JobService/StartJob": Action.WORK,
    "/parfocal.v1.JobService/GetJob": Action.READ,
    "/parfocal.v1.JobService/ListJobs": Action.READ,
    "/parfocal.v1.JobService/WatchJob": Action.READ,
    "/parfocal.v1.JobService/CancelJob": Action.CHANGE,
    "/parfocal.v1.JobService/ResumeJob": Action.CHANGE,
    "/parfocal.v1.JobService/DeleteJob": Action.CHANGE,
    "/parfocal.v1.JobService/ListUsage": Action.READ,
    "/parfocal.v1.JobService/ReadPreview": Action.READ,
    "/parfocal.v1.MethodService/ListMethods": Action.LOOK_AROUND,
    "/parfocal.v1.MethodService/PredictImage": Action.WORK,
    "/parfocal.v1.CatalogService/ListProjects": Action.LOOK_AROUND,
    "/parfocal.v1.CatalogService/ListEntries": Action.READ,
    "/parfocal.v1.CatalogService/GetEntry": Action.READ,
    "/parfocal.v1.CatalogService/GetLineage": Action.READ,
    "/parfocal.v1.CatalogService/DeleteEntry": Action.CHANGE,
    "/parfocal.v1.CatalogService/RestoreEntry": Action.WORK,
    "/parfocal.v1.CatalogService/GetUsage": Action.READ,
    "/parfocal.v1.CatalogService/ReadArchive": Action.READ,
    "/parfocal.v1.CatalogService/ReadFile": Action.READ,
    "/parfocal.v1.CatalogService/SignDownloads": Action.READ,
    "/parfocal.v1.CatalogService/BeginUpload": Action.WORK,
    "/parfocal.v1.CatalogService/SignUploads": Action.CHANGE,
    "/parfocal.v1.CatalogService/PublishUpload": Action.CHANGE,
    "/parfocal.v1.CatalogService/AbortUpload": Action.CHANGE,
    "/parfocal.v1.CatalogService/ReadDerived": Action.READ,
    "/parfocal.v1.CatalogService/CreateDraft": Action.WORK,
    "/parfocal.v1.CatalogService/ListDrafts": Action.READ,
    "/parfocal.v1.CatalogService/GetDraft": Action.READ,
    "/parfocal.v1.CatalogService/GetDraftImage": Action.READ,
    # Several people annotate one draft.
    "/parfocal.v1.CatalogService/ChangeDraftImage": Action.WORK,
    "/parfocal.v1.CatalogService/LeaseDraftImage": Action.WORK,
    "/parfocal.v1.CatalogService/WriteDraftFile": Action.WORK,
    "/parfocal.v1.CatalogService/ReadDraftFile": Action.READ,
    "/parfocal.v1.CatalogService/DeleteDraft": Action.CHANGE,
    "/parfocal.v1.CatalogService/OpenBatch": Action.WORK,
    "/parfocal.v1.CatalogService/ListBatchInputs": Action.READ,
    "/parfocal.v1.CatalogService/TakeBatchInputs": Action.WORK,
    "/parfocal.v1.CatalogService/EndBatchInputs": Action.WORK,
    "/parfocal.v1.CatalogService/CreateSchedule": Action.WORK,
    "/parfocal.v1.CatalogService/CheckSchedule": Action.READ,
    "/parfocal.v1.CatalogService/DeleteSchedule": Action.CHANGE,
    "/parfocal.v1.CatalogService/ShareEntry": Action.SHARE,
    "/parfocal.v1.CatalogService/WithdrawShare": Action.SHARE,
    "/parfocal.v1.CatalogService/ListShares": Action.READ,
    "/parfocal.v1.CatalogService/ListInboxes": Action.READ,
    "/parfocal.v1.CatalogService/ListInboxFiles": Action.READ,
    "/parfocal.v1.CatalogService/ReadInboxFile": Action.READ,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Action.LOOK_AROUND,
    "/grpc.health.v1.Health/Check": Action.PROBE,
    "/grpc.health.v1.Health/List": Action.PROBE,
    "/grpc.health.v1.Health/Watch": Action.PROBE,
}
