"""The drawing of the rooms is what the imports make, and the page shows it."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = next(path for path in Path(__file__).resolve().parents if (path / "setup.cfg").exists())
PICTURES = Path("docs", "pictures")


def draw(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", root / PICTURES / "architecture.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def architecture() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / PICTURES)
        import architecture  # type: ignore[import-not-found]

        return architecture


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in (".ci", "tinyrwkv", "converters", PICTURES):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".svg"):
                to = tmp_path / path.relative_to(ROOT)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to)
    return tmp_path


def test_the_committed_drawing_shows_the_imports() -> None:
    done = draw(ROOT, "--check")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "added",
    [
        "from . import model\n",
        "def late():\n    from . import model\n",
        "if TYPE_CHECKING:\n    from .model import Model\n",
    ],
)
def test_a_new_import_makes_the_check_fail(copy: Path, added: str) -> None:
    errors = copy / "tinyrwkv" / "errors.py"
    errors.write_text(f"{errors.read_text('utf-8')}\n\n{added}", "utf-8")
    done = draw(copy, "--check")
    assert done.returncode == 1
    assert "run python docs/pictures/architecture.py" in done.stderr


def test_a_new_drawing_passes_the_check(copy: Path) -> None:
    (copy / "tinyrwkv" / "errors.py").write_text('"""Errors."""\n\nfrom . import model\n', "utf-8")
    assert draw(copy).returncode == 0
    assert draw(copy, "--check").returncode == 0


def test_a_missing_drawing_makes_the_check_fail(copy: Path) -> None:
    (copy / PICTURES / "architecture.svg").unlink()
    assert draw(copy, "--check").returncode == 1


def test_other_arguments_write_nothing(copy: Path) -> None:
    (copy / PICTURES / "architecture.svg").unlink()
    assert draw(copy, "--chekc").returncode == 2
    assert not (copy / PICTURES / "architecture.svg").exists()


def test_imports_are_found_with_their_kind(architecture: ModuleType, tmp_path: Path) -> None:
    sources = {
        "tinyrwkv/__init__.py": "",
        "tinyrwkv/errors.py": "",
        "tinyrwkv/file/__init__.py": '"""The bytes."""',
        "tinyrwkv/file/table.py": "from ..errors import FormatError\nfrom . import header",
        "tinyrwkv/file/header.py": "import os, numpy.linalg",
        "tinyrwkv/model.py": (
            "if TYPE_CHECKING:\n    from .chat import Chat\nelse:\n    from . import errors\n"
            "class Model:\n    from .file.table import Table\n"
            "    def f(self):\n        from .. import nothing\n        from .file import header\n"
        ),
        "tinyrwkv/chat/__init__.py": "from .. import __version__",
        "converters/cli.py": "import tinyrwkv.errors\nfrom tinyrwkv.file.table import Table",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source, "utf-8")
    found = architecture.modules(tmp_path)
    load, late, types = range(3)
    assert set(architecture.imports(found)) == {
        ("tinyrwkv.file.table", "tinyrwkv.errors", load),
        ("tinyrwkv.file.table", "tinyrwkv.file.header", load),
        ("tinyrwkv.model", "tinyrwkv.chat", types),
        ("tinyrwkv.model", "tinyrwkv.errors", load),
        ("tinyrwkv.model", "tinyrwkv.file.table", load),
        ("tinyrwkv.model", "tinyrwkv.file.header", late),
        ("tinyrwkv.chat", "tinyrwkv", load),
        ("converters.cli", "tinyrwkv.errors", load),
        ("converters.cli", "tinyrwkv.file.table", load),
    }
    edges = architecture.room_imports(found)
    pairs = {(edge.user, edge.used) for edge in edges}
    assert ("tinyrwkv.chat", "tinyrwkv.__init__") in pairs
    assert ("tinyrwkv.file", "tinyrwkv.file") not in pairs
    core = {"tinyrwkv.model", "tinyrwkv.file", "tinyrwkv.errors"}
    assert architecture.core_rooms(edges) == core
    drawn = architecture.picture(tmp_path)
    assert "tinyrwkv.model imports tinyrwkv.chat (for types), " in drawn
    words = [element.text for element in ElementTree.fromstring(drawn).iter()]
    assert {"file/", "The bytes", "model.py", "cli.py"} <= set(words)


def test_arrows_that_follow_from_others_are_left_out(architecture: ModuleType) -> None:
    edge = architecture.Edge
    chain = [edge("a", "b"), edge("b", "c"), edge("c", "d")]
    assert architecture.reduced([*chain, edge("a", "c"), edge("a", "d")]) == chain
    # A weak arrow says nothing about a strong one.
    strong = [edge("b", "c"), edge("a", "c")]
    assert edge("a", "c") in architecture.reduced([edge("a", "b", 2), *strong])


def test_boxes_do_not_overlap_and_arrows_go_down(architecture: ModuleType) -> None:
    edges, _ = architecture.directed(architecture.room_imports(architecture.modules(ROOT)))
    nodes = {node for edge in edges for node in edge[:2]}
    size = architecture.BOX
    drawing = architecture.laid_out(nodes, architecture.reduced(edges), [], size, 5)
    boxes = [[node for node in layer if not architecture.is_bend(node)] for layer in drawing.layers]
    assert sorted(node for layer in boxes for node in layer) == sorted(nodes)
    assert max(map(len, boxes)) <= 5
    for layer in drawing.layers:
        for left, right in itertools.pairwise(layer):
            apart = drawing.x[right] - drawing.x[left]
            assert apart >= size.apart(left, right) - 0.2
    level = {node: y for y, layer in enumerate(drawing.layers) for node in layer}
    assert all(level[edge.user] < level[edge.used] for edge in drawing.chains)


@pytest.mark.parametrize("package", ["tinyrwkv", "converters"])
def test_the_page_names_every_room(package: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    inside = [path.parent.name for path in (ROOT / package).glob("*/__init__.py")]
    assert inside
    assert [room for room in sorted(inside) if f"`{room}`" not in page] == []
