"""What every API model shares: the frozen camelCase model and the value types of Kubernetes' own API."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StrictInt,
    StrictStr,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from typing_extensions import override

from slmpack.api.rules import Rule, Shown, keys_matching, matching, not_reserved, refuse_broken, with_rules

__all__ = [
    "OUR_LABELS",
    "OUR_PREFIX",
    "WHOLE",
    "ApiModel",
    "DnsName",
    "FreeObject",
    "Items",
    "LabelMap",
    "LabelValue",
    "QualifiedName",
    "Quantity",
    "UserAnnotations",
    "UserLabels",
]

T = TypeVar("T")

DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
QUALIFIED_NAME = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
OUR_LABELS = frozenset(f"app.kubernetes.io/{name}" for name in ("component", "instance", "managed-by", "name"))
OUR_PREFIX = "slmpack.dev/"
QUANTITY = r"^([0-9]+([.][0-9]*)?|[.][0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]+)?$"


class ApiModel(BaseModel):
    """A frozen object of the API in camelCase; attribute docstrings become the CRD's descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: object) -> object:
        """A null field is an absent one, as for the API server."""
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        refuse_broken(self.rules, self)
        return self

    @classmethod
    @override
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add the model's rules to its schema."""
        found = handler(schema)
        if cls.rules:
            found.update(with_rules(handler.resolve_ref_schema(found), cls.rules))
        return found


def _refuse_other_than_quantity(value: object) -> object:
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("quantity", "must be a whole number or a quoted quantity such as '500m' or '8Gi'")


def _is_quantity(value: int | str) -> bool:
    return value >= 0 if isinstance(value, int) else re.fullmatch(QUANTITY, value, re.ASCII) is not None


def _whole(value: object) -> object:
    """The API server takes 8000.0 for an integer, and keeps it so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Items = tuple[T, ...]

WHOLE = BeforeValidator(_whole)
"""Goes last in `Annotated[StrictInt, Field(...), WHOLE]`."""

FreeObject = Annotated[
    dict[StrictStr, Any],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]

Quantity = Annotated[
    StrictInt | StrictStr,
    BeforeValidator(_refuse_other_than_quantity),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 32}),
    Rule(
        cel=f"type(self) == int ? self >= 0 : string(self).matches(r'{QUANTITY}')",
        check=_is_quantity,
        message="'{value}' is no quantity; write for instance 2, '500m' or '8Gi', zero or more",
        shown=Shown(cel="string(self)", read=str),
    ),
]

DnsName = Annotated[
    StrictStr,
    Field(max_length=253),
    matching(DNS_SUBDOMAIN, "'{value}' is no object name: use lower-case letters, digits, '-' and '.'"),
]
QualifiedName = Annotated[
    StrictStr,
    Field(max_length=317),
    matching(QUALIFIED_NAME, "'{value}' is no label or taint key; write for instance 'example.com/team'"),
]
LabelValue = Annotated[
    StrictStr,
    Field(max_length=63),
    matching(LABEL_VALUE, "'{value}' is no label value: at most 63 letters, digits, '-', '_' and '.', quoted"),
]


def _keys(kind: str) -> Rule:
    return keys_matching(
        QUALIFIED_NAME, f"each {kind} key must be a name with an optional prefix, for instance example.com/team"
    )


LabelMap = Annotated[dict[StrictStr, LabelValue], Field(max_length=32), _keys("label")]

UserLabels = Annotated[
    LabelMap,
    not_reserved(
        OUR_LABELS,
        prefix=OUR_PREFIX,
        message=f"{OUR_PREFIX}*, {', '.join(sorted(OUR_LABELS))} are set by slmpack; choose other keys",
    ),
]
UserAnnotations = Annotated[
    dict[StrictStr, Annotated[StrictStr, Field(max_length=4096)]],
    Field(max_length=32),
    _keys("annotation"),
    not_reserved(frozenset(), prefix=OUR_PREFIX, message=f"{OUR_PREFIX}* are set by slmpack; choose other keys"),
]
