"""The walk through README and quick start finds what differs; what it walks is there."""

from __future__ import annotations

import os
import pathlib
import shutil

import pytest

from tests import walk_docs
from tests.helpers.places import ROOT

PAGE = """
Two lines come out: <!-- run 2 -->

```
$ cat
> one
one
$ echo two; false
two
```

This comes first. <!-- run 1 -->
```sh
cd sub
```

## A heading

```console
$ echo this is not marked
```

```python
print("a")  # "a"
```
"""


def test_the_steps_of_a_page() -> None:
    assert list(walk_docs.steps(PAGE)) == [
        walk_docs.Step("cd sub", "", None),
        walk_docs.Step("cat", "one\n", "one\n"),
        walk_docs.Step("echo two; false", "", "two\n"),
        walk_docs.Step("python -", 'print("a")  # "a"\n', "a\n"),
    ]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_what_differs_is_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sub").mkdir()
    listed = [
        walk_docs.Step("cd sub && PLACE=here", "", None),
        walk_docs.Step('basename "$PWD" && echo $PLACE', "", "sub\nhere\n"),
        walk_docs.Step("cat", "one\n", "two\n"),
        walk_docs.Step("no-such-command", "", None),
        walk_docs.Step("true", "", None),
    ]
    assert walk_docs.walk(listed, tmp_path, dict(os.environ)) == [
        "cat: printed 'one\\n', the page says 'two\\n'",
        "no-such-command: ended with 127",
    ]


@pytest.mark.parametrize("name", walk_docs.PAGES)
def test_every_page_installs_and_talks(name: str) -> None:
    page = (ROOT / name).read_text("utf-8")
    listed = walk_docs.with_files(list(walk_docs.steps(page)))
    commands = [step.command for step in listed]
    assert any("pip install ." in command for command in commands)
    assert walk_docs.Step("python -", walk_docs.FILES, None) in listed
    talks = [step for step in listed if step.typed and step.command.endswith(("chat", "chat.py"))]
    assert talks and all(step.expected for step in talks)
