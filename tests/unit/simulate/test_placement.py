"""Where Kubernetes and where this operator put a replica, and which ones they end."""

from __future__ import annotations

from slmpack.simulate.placement import KubernetesPlacement, PackedPlacement, placement_named
from slmpack.simulate.policies.base import GpuSeen, ReplicaSeen
from tests.unit.simulate.policies.looks import replica


def _gpu(gpu: int, *tenants: int, node: int | None = None, slots: int = 4, pays: int = 4) -> GpuSeen:
    """A GPU with one replica of each of these tenants; ids count from 10 x the GPU."""
    return GpuSeen(
        gpu=gpu,
        node=gpu if node is None else node,
        slots=slots,
        pays=pays,
        replicas=tuple((10 * gpu + index, tenant) for index, tenant in enumerate(tenants)),
    )


def _on(gpu: int, index: int, *, ready: bool = True, ready_at: float = 0.0, created_at: float = 0.0) -> ReplicaSeen:
    return replica(10 * gpu + index, gpu=gpu, ready=ready, ready_at=ready_at, created_at=created_at)


def test_kubernetes_spreads_to_the_emptiest_node() -> None:
    place = KubernetesPlacement().place

    assert place(tenant=0, gpus=[_gpu(0, 0), _gpu(1), _gpu(2, 0, 0)]) == 1
    assert place(tenant=0, gpus=[_gpu(0), _gpu(1)]) == 0


def test_kubernetes_spreads_a_tenants_own_replicas_before_it_balances_cpu() -> None:
    # Node 0: one sibling, one unit of four taken; node 1: none, two taken. Topology spread (weight 2) outweighs.
    assert KubernetesPlacement().place(tenant=0, gpus=[_gpu(0, 0), _gpu(1, 1, 1)]) == 1


def test_kubernetes_looks_at_cpu_where_siblings_are_equal() -> None:
    assert KubernetesPlacement().place(tenant=0, gpus=[_gpu(0, 1, 1), _gpu(1, 1)]) == 1


def test_the_device_plugin_takes_the_gpu_with_the_fewest_units_in_use() -> None:
    gpus = [_gpu(0, 0, 0, node=0), _gpu(1, 0, node=0), _gpu(2, *[0] * 4, node=1)]

    assert KubernetesPlacement().place(tenant=0, gpus=gpus) == 1
    assert PackedPlacement().place(tenant=0, gpus=gpus) == 1


def test_without_room_there_is_no_place() -> None:
    full = [_gpu(0, *[0] * 4)]

    assert KubernetesPlacement().place(tenant=0, gpus=full) is None
    assert PackedPlacement().place(tenant=0, gpus=full) is None


def test_ours_joins_the_fullest_gpu_where_it_pays() -> None:
    place = PackedPlacement().place

    assert place(tenant=0, gpus=[_gpu(0, 0), _gpu(1), _gpu(2, 1, 1)]) == 2
    assert place(tenant=0, gpus=[_gpu(0, 0, pays=1), _gpu(1, pays=1), _gpu(2, 1, 1, pays=1)]) == 1
    # Nowhere does it pay: the emptiest that has room.
    assert place(tenant=0, gpus=[_gpu(0, 0, 0, pays=1), _gpu(1, 0, pays=1)]) == 1


def test_kubernetes_ends_what_is_not_ready_first() -> None:
    replicas = [_on(0, 0), _on(1, 0, ready=False), _on(0, 1)]

    assert KubernetesPlacement().victims(
        tenant=0, count=1, replicas=replicas, gpus=[_gpu(0, 0, 0), _gpu(1, 0)], now=100.0
    ) == (10,)


def test_kubernetes_then_ends_where_most_siblings_are_and_so_unpacks() -> None:
    replicas = [_on(0, 0), _on(0, 1), _on(0, 2), _on(1, 0)]
    victims = KubernetesPlacement().victims(
        tenant=0, count=2, replicas=replicas, gpus=[_gpu(0, 0, 0, 0), _gpu(1, 0)], now=100.0
    )

    assert {victim // 10 for victim in victims} == {0}  # ranked once: both from the GPU with three


def test_strangers_on_a_node_are_no_siblings() -> None:
    replicas = [_on(0, 0), _on(1, 1), _on(1, 2)]
    victims = KubernetesPlacement().victims(
        tenant=0, count=1, replicas=replicas, gpus=[_gpu(0, 0, 1, 1, 1), _gpu(1, 1, 0, 0)], now=100.0
    )

    assert victims[0] // 10 == 1


def test_kubernetes_then_ends_the_newest_by_the_logarithm_of_its_age() -> None:
    # 10 s and 100 s of readiness are three powers of two apart; 100 s and 120 s are in one bucket.
    replicas = [_on(0, 0, ready_at=900.0), _on(1, 0, ready_at=990.0), _on(2, 0, ready_at=880.0)]
    gpus = [_gpu(0, 0), _gpu(1, 0), _gpu(2, 0)]
    victims = KubernetesPlacement().victims(tenant=0, count=3, replicas=replicas, gpus=gpus, now=1000.0)

    assert victims[0] == 10
    assert sorted(victims[1:]) == [0, 20]


def test_a_replica_made_this_moment_is_the_newest() -> None:
    replicas = [_on(0, 0, ready=False, created_at=5.0), _on(1, 0, ready=False, created_at=10.0)]

    assert KubernetesPlacement().victims(
        tenant=0, count=1, replicas=replicas, gpus=[_gpu(0, 0), _gpu(1, 0)], now=10.0
    ) == (10,)


def test_ours_empties_a_gpu() -> None:
    replicas = [_on(0, 0), _on(0, 1), _on(1, 0), _on(1, 1), _on(1, 2)]
    gpus = [_gpu(0, 0, 0), _gpu(1, 0, 0, 0)]

    assert set(PackedPlacement().victims(tenant=0, count=2, replicas=replicas, gpus=gpus, now=9.0)) == {0, 1}
    assert len(PackedPlacement().victims(tenant=0, count=9, replicas=replicas, gpus=gpus, now=9.0)) == 5


def test_ours_stays_with_the_gpu_that_it_began_to_empty() -> None:
    replicas = [
        _on(0, 0, created_at=5.0),
        _on(0, 1, created_at=1.0),
        _on(1, 0, created_at=4.0),
        _on(1, 1, created_at=2.0),
    ]
    gpus = [_gpu(0, 0, 0), _gpu(1, 0, 0)]

    assert PackedPlacement().victims(tenant=0, count=2, replicas=replicas, gpus=gpus, now=9.0) == (0, 1)


def test_ours_takes_the_starting_one_on_equal_gpus() -> None:
    replicas = [_on(0, 0), _on(1, 0, ready=False)]

    assert PackedPlacement().victims(tenant=0, count=1, replicas=replicas, gpus=[_gpu(0, 0), _gpu(1, 0)], now=1.0) == (
        10,
    )


def test_by_name() -> None:
    assert isinstance(placement_named("kubernetes"), KubernetesPlacement)
    assert isinstance(placement_named("slmpack"), PackedPlacement)
