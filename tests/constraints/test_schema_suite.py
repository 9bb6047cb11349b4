"""The tool that runs the JSON-Schema-Test-Suite, on a few cases in the same layout."""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest

from benchmarks import json_schema_suite
from tests.helpers.places import ROOT

CASES = ROOT / "tests" / "data" / "json-schema-cases"


def test_no_case_is_wrong(capsys):
    assert json_schema_suite.main([str(CASES), "--json"]) == 0
    draft7, draft2020 = json.loads(capsys.readouterr().out)
    assert (draft7["schemas"], draft7["accepted"], draft7["valid_allowed"]) == (3, 2, 2)
    assert (draft2020["schemas"], draft2020["accepted"], draft2020["valid_allowed"]) == (2, 2, 2)


def test_what_is_refused_is_told(capsys):
    assert json_schema_suite.main([str(CASES), "--refused", "--narrow"]) == 0
    told = capsys.readouterr().out
    assert "has the keyword 'contains', which is not understood" in told
    assert "draft7: 2 of 3 schemas accepted" in told


def test_a_wrong_instance_is_found(tmp_path: pathlib.Path, capsys):
    shutil.copytree(CASES, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tests" / "draft7" / "cases.json"
    path.write_text(path.read_text("utf-8").replace('"valid": true', '"valid": false'), "utf-8")
    assert json_schema_suite.main([str(tmp_path)]) == 1
    assert (
        'cases.json: a reading of a sensor: {"value": 2.5, "unit": "m"}' in capsys.readouterr().out
    )


def test_another_folder_is_refused(tmp_path: pathlib.Path, capsys):
    with pytest.raises(SystemExit):
        json_schema_suite.main([str(tmp_path)])
    assert "there is no folder" in capsys.readouterr().err
