"""The engine's environment in `spec.pod`, as in core/v1, without the variables that belong to slmpack."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, StrictBool, StrictStr

from slmpack.api.base import ApiModel, DnsName, Quantity
from slmpack.api.rules import Rule, Shown, exactly_one, matching, present

__all__ = ["EnvFromSource", "EnvVar", "KeySelector"]

ENV_NAME = r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"


class KeySelector(ApiModel):
    """One key of a ConfigMap or Secret in the pod's namespace."""

    name: DnsName
    """Name of the ConfigMap or Secret. Example: `hf-token`."""
    key: Annotated[StrictStr, Field(min_length=1, max_length=253)]
    """The key in it. Example: `token`."""
    optional: StrictBool = False
    """Whether the pod starts without it."""


class FieldSelector(ApiModel):
    """A field of the pod."""

    field_path: Annotated[StrictStr, Field(min_length=1, max_length=253)]
    """Path of the field. Example: `metadata.name`."""
    api_version: Annotated[StrictStr, Field(min_length=1, max_length=63)] = "v1"
    """Version in which the path is written."""


class ResourceFieldSelector(ApiModel):
    """A resource of the engine's container."""

    resource: Annotated[StrictStr, Field(min_length=1, max_length=63)]
    """The resource. Example: `limits.cpu`."""
    divisor: Quantity = "1"
    """Unit of the value. Example: `1Mi`."""


class EnvVarSource(ApiModel):
    """Where a variable's value comes from: exactly one of the four."""

    config_map_key_ref: KeySelector | None = None
    """A key of a ConfigMap. Default: none."""
    secret_key_ref: KeySelector | None = None
    """A key of a Secret. Default: none."""
    field_ref: FieldSelector | None = None
    """A field of the pod. Default: none."""
    resource_field_ref: ResourceFieldSelector | None = None
    """A resource of the container. Default: none."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=exactly_one("configMapKeyRef secretKeyRef fieldRef resourceFieldRef"),
            check=lambda it: (
                len(present(it, "config_map_key_ref", "secret_key_ref", "field_ref", "resource_field_ref")) == 1
            ),
            message="give exactly one of configMapKeyRef, secretKeyRef, fieldRef and resourceFieldRef",
        ),
    )


def _not_ours(message: str) -> Rule:
    return Rule(
        cel="!self.startsWith('CUDA_') && !self.startsWith('NVIDIA_')",
        check=lambda text: not text.startswith(("CUDA_", "NVIDIA_")),
        message=message,
        shown=Shown(cel="self", read=str),
    )


class EnvVar(ApiModel):
    """An environment variable of the engine, as in core/v1."""

    name: Annotated[
        StrictStr,
        Field(max_length=253),
        matching(ENV_NAME, "'{value}' is no variable name: use letters, digits, '_', '-' and '.', no digit first"),
        _not_ours(
            "'{value}' is set by slmpack: CUDA_* and NVIDIA_* variables bound the replica's part of a GPU; remove it"
        ),
    ]
    """Name of the variable; CUDA_*, NVIDIA_* and the VLLM_* that move memory, ports or
    processes belong to slmpack. Example: `VLLM_LOGGING_LEVEL`."""
    value: Annotated[StrictStr, Field(max_length=32768)] | None = None
    """The value, in quotes where YAML would read a number or a boolean. Default: empty. Example: `DEBUG`."""
    value_from: EnvVarSource | None = None
    """A source for the value, instead of `value`. Default: none."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(has(self.value) && has(self.valueFrom))",
            check=lambda it: len(present(it, "value", "value_from")) < 2,
            message="give '{value}' either value or valueFrom, not both",
            field="valueFrom",
            shown=Shown(cel="self.name", read=lambda it: it.name),
        ),
    )


class EnvSource(ApiModel):
    """A ConfigMap or Secret in the pod's namespace."""

    name: DnsName
    """Its name. Example: `engine-settings`."""
    optional: StrictBool = False
    """Whether the pod starts without it."""


class EnvFromSource(ApiModel):
    """All keys of a ConfigMap or a Secret as variables; those that slmpack sets itself win over them."""

    prefix: Annotated[
        StrictStr,
        Field(max_length=253),
        _not_ours("prefix '{value}' would set variables that slmpack sets; choose one other than CUDA_ or NVIDIA_"),
    ] = ""
    """Put before each key. Default: nothing. Example: `APP_`."""
    config_map_ref: EnvSource | None = None
    """The ConfigMap. Default: none."""
    secret_ref: EnvSource | None = None
    """The Secret. Default: none."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.configMapRef) != has(self.secretRef)",
            check=lambda it: len(present(it, "config_map_ref", "secret_ref")) == 1,
            message="give exactly one of configMapRef and secretRef",
        ),
    )
