"""`make cluster`: the real control plane with GPU nodes and stand-in kubelets, for development. Ctrl-C ends it."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from slmpack.adapters.kube import KubeClient
from slmpack.api.crd import build_crd
from slmpack.cli.stages import demo_nodes
from slmpack.devcluster.cluster import system_clock
from slmpack.devcluster.kubelet import Kubelets
from tests.support.binaries import BinariesError
from tests.support.control_plane import ControlPlane, StartError

CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def main(args: list[str]) -> int:
    """Run until Ctrl-C; 1 with the reason where the control plane cannot be had."""
    parser = argparse.ArgumentParser(prog="make cluster", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="which GPU the stand-in kubelets pick (default: 0)")
    options = parser.parse_args(args)
    try:
        with ControlPlane.start(say=_say) as control_plane:
            asyncio.run(_play(control_plane, seed=options.seed))
    except (BinariesError, StartError) as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        pass
    _say("the cluster is gone")
    return 0


async def _play(control_plane: ControlPlane, *, seed: int) -> None:
    kubeconfig = control_plane.kubeconfig()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with await KubeClient.connect(str(kubeconfig)) as client:
        await client.create(CRD_PATH, build_crd())
        async with Kubelets(client, nodes=demo_nodes(), clock=system_clock, seed=seed):
            _say(
                "the CRD is applied; start the operator with: .venv/bin/slmpack run --lease-namespace default"
                " (and see it: .venv/bin/slmpack plan --cluster; where the Hub is out of reach, give both --bundled-models)"
            )
            sys.stdout.write(f"export KUBECONFIG={kubeconfig}\n")
            sys.stdout.flush()
            await stop.wait()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
