"""Random messages of any type, from its descriptor: valid, nearly valid, and absurd ones."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, MutableSequence, Sequence
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from fuzz.mutation import TEXTS

_WHOLE = (0, 1, 2, 3, 10, 100, -1, 2**31 - 1, 2**63 - 1, -(2**63))
_DECIMAL = (0.0, 1.0, -1.0, 0.5, 1e308, float("nan"), float("inf"), -float("inf"))
_DEPTH = 4
_LIMITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


class Generator:
    """Makes messages; `known` are values by name of the field that stand for something that exists."""

    def __init__(self, rng: random.Random, known: Mapping[str, Sequence[Any]]) -> None:
        self._rng = rng
        self._known = known

    def fill(self, message: Message, depth: int = 0) -> Message:
        """Set random fields of a message and return it."""
        # The stubs know two kinds of descriptors, with and without the C library.
        descriptor: Any = message.DESCRIPTOR
        if descriptor.full_name == "google.protobuf.Struct":
            self._struct(message, depth)
            return message
        chosen = {oneof.name: self._rng.choice(oneof.fields).name for oneof in descriptor.oneofs}
        for field in descriptor.fields:
            oneof = field.containing_oneof
            if oneof is not None and chosen[oneof.name] != field.name:
                continue
            if self._rng.random() < (0.85 if depth == 0 else 0.7):
                self._set(message, field, depth)
        return message

    def _set(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            for _ in range(self._rng.randrange(3)):
                target = getattr(message, field.name)
                if value.message_type is None:
                    target[self._text("key")] = self._scalar(value)
        # Old versions of protobuf do not know `is_repeated`, and new ones warn of `label`.
        elif isinstance(getattr(message, field.name), MutableSequence):
            values = getattr(message, field.name)
            for _ in range(self._rng.choice((1, 1, 2, 5, 40))):
                if field.message_type is None:
                    values.append(self._scalar(field))
                elif depth < _DEPTH:
                    self.fill(values.add(), depth + 1)
        elif field.message_type is not None:
            child = getattr(message, field.name)
            child.SetInParent()
            if depth < _DEPTH:
                self.fill(child, depth + 1)
        else:
            setattr(message, field.name, self._scalar(field))

    def _scalar(self, field: FieldDescriptor) -> Any:
        rng, kind = self._rng, field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return rng.randbytes(rng.choice((0, 1, 100, 70_000)))
            return self._text(field.name)
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        if field.enum_type is not None:
            return rng.choice([*(value.number for value in field.enum_type.values), 77, -3])
        if kind in _LIMITS:
            least, most = _LIMITS[kind]
            known = self._known.get(field.name, ())
            value = rng.choice(known) if known and rng.random() < 0.7 else rng.choice(_WHOLE)
            return min(max(value, least), most)
        # Of 32 bits, in which larger numbers are refused by the library already.
        value = rng.choice(_DECIMAL)
        return value if kind == FieldDescriptor.CPPTYPE_DOUBLE or abs(value) < 1e30 or value != value else 1.0

    def _text(self, name: str) -> str:
        rng = self._rng
        known = self._known.get(name, ())
        if known and rng.random() < 0.75:
            text = str(rng.choice(known))
            return text if rng.random() < 0.85 else self._spoiled(text)
        if rng.random() < 0.5:
            return rng.choice(TEXTS)
        return "".join(rng.choices(string.printable, k=rng.randrange(20)))

    def _spoiled(self, text: str) -> str:
        rng = self._rng
        at = rng.randrange(len(text) + 1)
        return text[:at] + rng.choice((*TEXTS, "")) + text[at + rng.randrange(3) :]

    def _struct(self, message: Any, depth: int) -> None:
        for name in self._rng.sample(list(self._known.get("parameters", ())) or ["a"], k=1):
            message.fields[name].CopyFrom(self._value(depth))
        while self._rng.random() < 0.4:
            message.fields[self._text("parameters")].CopyFrom(self._value(depth))

    def _value(self, depth: int) -> struct_pb2.Value:
        rng = self._rng
        choices: list[dict[str, Any]] = [
            {"number_value": rng.choice((*_DECIMAL, 2.0, 16.0, 1.5))},
            {"string_value": self._text("parameter")},
            {"bool_value": rng.random() < 0.5},
            {"null_value": struct_pb2.NULL_VALUE},
        ]
        value = struct_pb2.Value(**rng.choice(choices))
        if depth < _DEPTH and rng.random() < 0.2:
            items = [self._value(depth + 1) for _ in range(rng.randrange(3))]
            value = struct_pb2.Value(list_value=struct_pb2.ListValue(values=items))
        return value
