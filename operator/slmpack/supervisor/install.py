"""`python3 -m slmpack.supervisor.install FOLDER` writes FOLDER/supervisor.pyz: the init container's work."""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from pathlib import Path

__all__ = ["NAME", "install", "main"]

NAME = "supervisor.pyz"
PACKAGE = "slmpack/supervisor"
START = "import sys\n\nfrom slmpack.supervisor.__main__ import main\n\nsys.exit(main(sys.argv[1:]))\n"


def install(folder: Path) -> Path:
    """Write the program, whole or not at all, readable by every user. OSError if it cannot."""
    here = Path(__file__).parent
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{NAME}.")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            # Only this package: the rest of slmpack needs more than the standard library.
            files = {"slmpack/__init__.py": b"", "__main__.py": START.encode()}
            files |= {f"{PACKAGE}/{module.name}": module.read_bytes() for module in here.glob("*.py")}
            for name_inside, content in sorted(files.items()):
                # A date of its own: an image may have files from before 1980, which a zip cannot hold.
                archive.writestr(zipfile.ZipInfo(name_inside), content, zipfile.ZIP_DEFLATED)
        Path(name).chmod(0o755)
        return Path(name).replace(folder / NAME)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def main(argv: list[str]) -> int:
    """The exit code: 0, 1 if it cannot be written, 64 for a wrong call."""
    if len(argv) != 1:
        sys.stderr.write(f"{__doc__}\n")
        return 64
    try:
        sys.stdout.write(f"{install(Path(argv[0]))}\n")
    except OSError as error:
        sys.stderr.write(f"cannot write {NAME} into {argv[0]}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
