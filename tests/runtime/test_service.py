"""Parameters, their errors, and the table from exceptions to gRPC."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from fake import SERVICE
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2

from parfocal import v1
from parfocal.runtime import errors
from parfocal.runtime.errors import InvalidParameterError, NotFoundError, ParfocalError, QueueFullError, Violation
from parfocal.runtime.methods.service import quick, struct_values, values_struct
from parfocal.runtime.rpc_errors import code_name, to_status

FAKE = SERVICE.method("fake-2d")


def test_defaults_fill_what_is_left_out() -> None:
    assert FAKE.parse(v1.JOB_KIND_TRAINING, {"epochs": 7}).model_dump()["epochs"] == 7
    assert FAKE.parse(v1.JOB_KIND_TRAINING, {}).model_dump()["epochs"] == 4


def test_all_wrong_parameters_are_named_at_once_with_a_suggestion() -> None:
    with pytest.raises(InvalidParameterError) as caught:
        FAKE.parse(v1.JOB_KIND_TRAINING, {"epohcs": 3, "batch_size": 0})
    assert {violation.field for violation in caught.value.violations} == {"epohcs", "batch_size"}
    assert "'epochs'" in caught.value.message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "fast", [1]])
def test_a_rate_must_be_a_finite_number(value: Any) -> None:
    with pytest.raises(InvalidParameterError):
        FAKE.parse(v1.JOB_KIND_TRAINING, {"learning_rate": value})


def test_whole_numbers_survive_the_struct() -> None:
    values = {"epochs": 3, "rate": 0.5, "flag": True, "names": ["a", 2]}
    assert struct_values(values_struct(values)) == values
    assert isinstance(struct_values(values_struct(values))["epochs"], int)


def test_a_kind_of_work_that_is_not_offered_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="does not offer evaluation"):
        FAKE.work_of(v1.JOB_KIND_EVALUATION)


def test_the_published_schema_has_help_and_range_for_people() -> None:
    (schema,) = [s for s in FAKE.to_proto().parameter_schemas if s.job_kind == v1.JOB_KIND_TRAINING]
    field = json.loads(schema.json_schema)["properties"]["validation_fraction"]
    assert field["description"]
    assert (field["exclusiveMinimum"], field["exclusiveMaximum"]) == (0, 0.9)


def _all_errors() -> list[type[ParfocalError]]:
    return [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, ParfocalError)]


@pytest.mark.parametrize("cls", [cls for cls in _all_errors() if cls is not ParfocalError])
def test_no_error_made_on_purpose_is_internal(cls: type[ParfocalError]) -> None:
    assert code_name(cls("text")) != "INTERNAL"


def test_the_module_text_shows_every_error_with_its_code() -> None:
    table = errors.__doc__ or ""
    for cls in _all_errors():
        assert cls.__name__ in table or cls is ParfocalError
        if f"{cls.__name__} " in table and cls is not ParfocalError and cls is not InvalidParameterError:
            (line,) = [line for line in table.splitlines() if f" {cls.__name__} " in line]
            assert code_name(cls("text")) in line


def test_a_status_carries_reason_fields_and_the_time_to_retry() -> None:
    status = to_status(QueueFullError("full", retry_seconds=2.5), "request-1")
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details if detail.Is(retry.DESCRIPTOR))
    assert retry.retry_delay.ToMilliseconds() == 2500
    bad = error_details_pb2.BadRequest()
    status = to_status(InvalidParameterError("wrong", [Violation("epochs", "too many")]), "request-2")
    assert any(detail.Unpack(bad) for detail in status.details if detail.Is(bad.DESCRIPTOR))
    assert bad.field_violations[0].field == "epochs"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_know_is_the_callers_mistake(value: float) -> None:
    struct = struct_pb2.Struct()
    struct.update({"epochs": 3, "learning_rate": value})
    with pytest.raises(InvalidParameterError, match=r"'learning_rate'.*finite") as caught:
        struct_values(struct)
    assert [violation.field for violation in caught.value.violations] == ["learning_rate"]


def test_a_preset_with_a_parameter_that_the_method_has_not_is_no_method() -> None:
    with pytest.raises(InvalidParameterError, match="depth"):
        replace(SERVICE.method("fake-2d"), presets=quick(depth=3))
