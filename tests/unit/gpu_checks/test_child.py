"""The CUDA process's answers, over a GPU of a few bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gpu.child import CudaError, serve


class TinyGpu:
    """A hundred bytes."""

    def __init__(self) -> None:
        self.used: dict[int, int] = {}

    def open(self) -> int:
        return 1

    def memory(self) -> tuple[int, int]:
        return 100 - sum(self.used.values()), 100

    def runtime_memory(self) -> dict[str, Any]:
        return {"error": "no libcudart"}

    def take(self, size: int) -> int:
        if sum(self.used.values()) + size > 100:
            raise CudaError(at="cuMemAlloc", code=2, name="CUDA_ERROR_OUT_OF_MEMORY")
        address = len(self.used) + 1
        self.used[address] = size
        return address

    def give_back(self, address: int) -> None:
        del self.used[address]


def answers(*requests: dict[str, Any], make: Any = TinyGpu) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    serve(make, [json.dumps(request) for request in requests], said.append)
    return said


def test_it_fills_until_refused_and_gives_back() -> None:
    opened, filled, full, dropped, empty = answers(
        {"do": "open"},
        {"do": "fill", "pieces": [30, 4], "most": 1000},
        {"do": "memory"},
        {"do": "drop"},
        {"do": "memory"},
    )
    assert (opened["devices"], opened["free"], opened["total"]) == (1, 100, 100)
    assert filled == {"ok": True, "bytes": 98, "refused": True, "error": "CUDA_ERROR_OUT_OF_MEMORY"}
    assert full["free"] == 2
    assert dropped == {"ok": True}
    assert empty["free"] == 100


def test_it_stops_at_the_most_it_may_take() -> None:
    (filled,) = answers({"do": "fill", "pieces": [30, 4], "most": 40})
    assert filled == {"ok": True, "bytes": 38, "refused": False, "error": ""}


def test_what_cuda_refuses_is_an_answer() -> None:
    class Closed(TinyGpu):
        def open(self) -> int:
            raise CudaError(at="cuInit", code=100, name="CUDA_ERROR_NO_DEVICE")

    assert answers({"do": "open"}, make=Closed) == [
        {"ok": False, "at": "cuInit", "code": 100, "error": "CUDA_ERROR_NO_DEVICE"}
    ]


def test_no_driver_is_an_answer() -> None:
    def missing() -> TinyGpu:
        raise OSError("cannot open shared object file")

    assert answers({"do": "open"}, make=missing)[0]["at"] == "libcuda.so.1"


def test_an_unknown_request_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="do is 'sing'"):
        answers({"do": "sing"})
