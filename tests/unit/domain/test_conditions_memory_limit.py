"""MemoryLimitEnforced: the mechanism, how it was verified, and the weakest where there are several."""

from __future__ import annotations

import pytest

from slmpack.domain.memory_limit import memory_limit
from slmpack.domain.plan import ReplicaState
from slmpack.domain.quantity import GIB
from slmpack.domain.reasons import Reason
from slmpack.domain.sharing import DraClaim, Exclusive, MigSlice, MpsPack, MpsShare, Share, describe_share
from slmpack.domain.snapshot import Key

WHOLE = Exclusive(resource="nvidia.com/gpu", memory_bytes=GIB)
SLICE = MigSlice(resource="nvidia.com/mig-1g.10gb", profile="1g.10gb", memory_bytes=GIB)
CLAIM = DraClaim(resource="mig/1g.10gb", device_class="mig.nvidia.com", profile="1g.10gb", memory_bytes=GIB)
PACK = MpsPack(resource="nvidia.com/gpu", gpu_memory_bytes=4 * GIB, limits_bytes=(GIB, GIB))
MPS = MpsShare(
    resource="nvidia.com/gpu", replicas=4, gpu_memory_bytes=4 * GIB, limit_bytes=GIB, active_thread_percentage=25
)
SET_ONLY = (
    "the device plugin's MPS daemon and the pod's environment set a limit for the process; "
    "it has not been verified from inside"
)


def on(
    share: Share, *, pod: str = "qwen-0", engine: int | None = None, attached: bool | None = None, words: str = ""
) -> ReplicaState:
    return ReplicaState(
        pod=Key("llm", pod),
        engine=engine,
        node="n",
        resource=share.resource,
        share=describe_share(share),
        ready=True,
        counts=True,
        problem=None,
        outdated=False,
        attached=attached,
        attached_message=words,
    )


def engines(*attached: bool | None, words: str = "") -> tuple[ReplicaState, ...]:
    return tuple(on(PACK, engine=n, attached=seen, words=words) for n, seen in enumerate(attached))


ONE_KIND = {
    "nothing runs": ((), "Unknown", Reason.NOTHING_RUNS, "no replica runs"),
    "a whole GPU": ((on(WHOLE),), "True", Reason.WHOLE_DEVICE, "a replica has a whole GPU"),
    "slices": (
        (on(SLICE), on(SLICE, pod="qwen-1")),
        "True",
        Reason.MIG_HARDWARE,
        "the hardware of the MIG instance (device plugin) holds the limit",
    ),
    "a claim": (
        (on(CLAIM),),
        "True",
        Reason.MIG_HARDWARE,
        "the hardware of the MIG instance (ResourceClaim) holds the limit",
    ),
    "a share, whatever is claimed for it": ((on(MPS, attached=True),), "Unknown", Reason.NOT_VERIFIED, SET_ONLY),
    "a pack, seen": (
        engines(True, True),
        "True",
        Reason.SEEN_FROM_INSIDE,
        "each engine's MPS limit was seen from inside",
    ),
    "a pack that starts": (
        engines(True, None),
        "Unknown",
        Reason.NOT_VERIFIED,
        "the MPS limits of 1 of 2 engines were seen from inside",
    ),
    "a pack that says nothing": (
        engines(None),
        "Unknown",
        Reason.NOT_VERIFIED,
        "the MPS limits of 0 of 1 engines were seen from inside",
    ),
    "a pack with a loose engine": (
        engines(True, False, None, words="cuMemGetInfo says 80 GiB"),
        "False",
        Reason.NOT_ATTACHED,
        "qwen-0 engine 1 is not held by its MPS limit: cuMemGetInfo says 80 GiB",
    ),
    "without a word": (
        engines(False),
        "False",
        Reason.NOT_ATTACHED,
        "qwen-0 engine 0 is not held by its MPS limit: its supervisor gives no detail",
    ),
}


@pytest.mark.parametrize(("replicas", "status", "reason", "message"), ONE_KIND.values(), ids=ONE_KIND)
def test_each_kind_names_its_mechanism(
    replicas: tuple[ReplicaState, ...], status: str, reason: Reason, message: str
) -> None:
    assert memory_limit(replicas) == (status, reason, message)


WEAKEST_FIRST = (
    ("False", Reason.NOT_ATTACHED, on(PACK, engine=0, attached=False)),
    ("Unknown", Reason.NOT_VERIFIED, on(MPS)),
    ("True", Reason.WHOLE_DEVICE, on(WHOLE)),
    ("True", Reason.MIG_HARDWARE, on(SLICE)),
)


def test_of_several_kinds_the_weakest_decides_and_each_is_counted() -> None:
    for place, (status, reason, weakest) in enumerate(WEAKEST_FIRST):
        replicas = [weakest, *(entry[2] for entry in WEAKEST_FIRST[place + 1 :])]
        assert memory_limit(replicas[::-1])[:2] == (status, reason)
    seen = engines(True, True)
    assert memory_limit((on(WHOLE), on(SLICE), *seen))[1] is Reason.SEEN_FROM_INSIDE
    found = memory_limit((on(CLAIM), on(WHOLE), *seen, on(SLICE)))
    assert found == (
        "True",
        Reason.SEEN_FROM_INSIDE,
        (
            "1 DraClaim: the hardware of the MIG instance (ResourceClaim) holds the limit; "
            "1 Exclusive: a replica has a whole GPU; "
            "1 MigSlice: the hardware of the MIG instance (device plugin) holds the limit; "
            "2 MpsPack: each engine's MPS limit was seen from inside"
        ),
    )
