"""Check what a built wheel holds: ``python .ci/check_wheel.py DIST CHECKOUT``.

DIST is a folder with one wheel.
"""

from __future__ import annotations

import configparser
import sys
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

PACKAGES = {
    "tinyrwkv": "tinyrwkv",
    "tinyrwkv_converters": "converters",
}  # in the wheel: in the checkout

NOT_CODE = ("tinyrwkv/models/", "tinyrwkv/native/", "tinyrwkv/py.typed")


def expected_files(checkout: Path) -> set[str]:
    """Return the names of the packages' files in the wheel: all that the checkout has."""
    names = set()
    for package, folder in PACKAGES.items():
        for path in (checkout / folder).rglob("*"):
            name = f"{package}/{path.relative_to(checkout / folder).as_posix()}"
            if (
                path.is_file()
                and path.suffix != ".pyc"
                and (path.suffix == ".py" or name.startswith(NOT_CODE))
            ):
                names.add(name)
    return names


def problems(wheel: Path, checkout: Path) -> Iterator[str]:
    """Yield what is wrong with a wheel built from a checkout."""
    if not wheel.name.endswith("-py3-none-any.whl"):
        yield "expected a wheel for every machine: py3-none-any"
    with zipfile.ZipFile(wheel) as archive:
        held = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}
        info = next(name.split("/")[0] for name in held if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(f"{info}/METADATA").decode())
        scripts = archive.read(f"{info}/entry_points.txt").decode()

    packaged = {name for name in held if not name.startswith(info)}
    expected = expected_files(checkout)
    for name in sorted(expected - packaged):
        yield f"{name} is missing"
    for name in sorted(packaged - expected):
        yield f"{name} does not belong in it"
    if not any(
        name.startswith("tinyrwkv/models/") and name.endswith(".trwkv") for name in packaged
    ):
        yield "it has no model"
    for licence in ("LICENSE", "tinyrwkv/models/LICENSE-MODEL"):
        if f"{info}/licenses/{licence}" not in held:
            yield f"{licence} is missing from its licences"

    if metadata["License"] != "Apache-2.0" and metadata["License-Expression"] != "Apache-2.0":
        yield "its licence is not Apache-2.0"
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    if needed != ["numpy>=1.21"]:
        yield f"it needs {needed}, expected NumPy and nothing else"
    if metadata["Requires-Python"] != ">=3.10":
        yield f"it needs Python {metadata['Requires-Python']}, expected >=3.10"
    setup = configparser.ConfigParser()
    setup.read(checkout / "setup.cfg", "utf-8")
    listed = setup["options.entry_points"]["console_scripts"]
    if set(scripts.split("[console_scripts]")[1].split("\n")) - {""} != set(listed.split("\n")) - {
        ""
    }:
        yield f"its scripts are {scripts}"


def main(dist: str, checkout: str) -> int:
    """Print the wheel's contents and every problem; return 1 if there is one."""
    (wheel,) = Path(dist).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            print(f"{info.file_size:12,}  {info.filename}")
    print(f"{wheel.stat().st_size:12,}  {wheel.name}")
    found = list(problems(wheel, Path(checkout)))
    for problem in found:
        print(f"{wheel.name}: {problem}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
