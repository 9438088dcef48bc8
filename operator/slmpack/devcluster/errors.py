"""The API server's way to say no: a Status object with an HTTP code and a reason."""

from __future__ import annotations

from typing import Any

__all__ = ["StatusError", "already_exists", "conflict", "invalid", "not_found"]


class StatusError(Exception):
    """One refused request; `code` and `reason` are what clients branch on."""

    def __init__(self, code: int, reason: str, message: str, *, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details or {}

    def as_status(self) -> dict[str, Any]:
        """The body of the HTTP answer."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


def not_found(key: str, name: str) -> StatusError:
    """404 of an object that is not there."""
    return StatusError(404, "NotFound", f'{key} "{name}" not found', details={"name": name, "kind": key})


def already_exists(key: str, name: str) -> StatusError:
    """409 of a create whose name is taken."""
    return StatusError(409, "AlreadyExists", f'{key} "{name}" already exists', details={"name": name, "kind": key})


def conflict(key: str, name: str, why: str) -> StatusError:
    """409 of a write that was made against something else than what is stored."""
    text = f'Operation cannot be fulfilled on {key} "{name}": {why}'
    return StatusError(409, "Conflict", text, details={"name": name, "kind": key})


def invalid(kind: str, name: str, problems: list[str]) -> StatusError:
    """422 that lists every rule an object breaks."""
    listed = problems[0] if len(problems) == 1 else "[" + ", ".join(problems) + "]"
    pairs = [problem.split(": ", 1) for problem in problems]
    causes = [{"reason": "FieldValueInvalid", "field": pair[0], "message": pair[-1]} for pair in pairs]
    text = f'{kind} "{name}" is invalid: {listed}'
    return StatusError(422, "Invalid", text, details={"name": name, "kind": kind, "causes": causes})
