"""`python -m tests.image [--base IMAGE]`: build the images with buildah, and run what is in them as a cluster would.

As 65532 on a read-only root without a writable folder. Where buildah is missing, a line says what was not checked.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.image.builder import Builder, BuildError, missing
from tests.image.checks import OPERATOR_CHECKS, check_pack

__all__ = ["main"]

ROOT = Path(__file__).parents[2]


def main(argv: Sequence[str]) -> int:
    """The exit code: 0 all is as promised (or nothing can be built here), 1 something is not."""
    parser = argparse.ArgumentParser(prog="python -m tests.image", description=__doc__)
    parser.add_argument("--base", metavar="IMAGE", help="Instead of the base image that the Dockerfile names.")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="Keep the base image here, for the next time.")
    options = parser.parse_args(argv)
    lacks = missing()
    if lacks:
        _say(f"images: not built and not run, as {lacks}; make check only lints them")
        return 0
    with tempfile.TemporaryDirectory(prefix="slmpack-image-") as folder:
        try:
            return _check(Builder(options.keep or Path(folder), say=_say), options.base)
        except BuildError as error:
            _say(f"images: {error}")
            return 1


def _check(builder: Builder, base: str | None) -> int:
    used = base or builder.base_image()
    builder.build("slmpack", ROOT / "images/operator", PYTHON_IMAGE=used, VERSION="0.0.0-test")
    failed = 0
    with builder.mounted("slmpack") as image:
        for check in OPERATOR_CHECKS:
            failed += _report(check.__name__, check.__doc__ or "", lambda check=check: check(image))
    builder.build("pack", ROOT / "images/pack", VLLM_IMAGE=used)
    with builder.mounted("pack") as image:
        failed += _report("check_pack", check_pack.__doc__ or "", lambda: check_pack(image))
    _say(f"images: {failed} of {len(OPERATOR_CHECKS) + 1} checks failed, on {used}")
    return 1 if failed else 0


def _report(name: str, what: str, check: object) -> int:
    assert callable(check)
    try:
        check()
    except AssertionError as error:
        _say(f"FAILED  {name}: {what}\n{error}")
        return 1
    _say(f"ok      {what}")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
