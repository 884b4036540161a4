"""What can be said of the modules without a plan: their form, their validity, and their own tests."""

from __future__ import annotations

import json

import pytest
from terraform.tool import Terraform, copy_tree

MODULES = ("", "modules/user-data", "examples/minimal", "examples/complete")


def test_every_file_has_the_canonical_form(terraform: Terraform) -> None:
    fresh = terraform.home / "fresh"  # other tests write into their copy
    copy_tree(fresh)
    assert terraform.run(fresh, "fmt", "-check", "-diff", "-recursive").must().stdout == ""


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_valid_and_has_no_warning(terraform: Terraform, module: str) -> None:
    answer = terraform.validate(terraform.tree / module)
    assert (answer.code, list(answer.diagnostics)) == (0, [])


@pytest.mark.parametrize("module", ["", "modules/user-data"])
def test_a_modules_own_tests_pass(terraform: Terraform, module: str) -> None:
    answer = terraform.test(terraform.tree / module).must()
    summary = [json.loads(line)["test_summary"] for line in answer.stdout.splitlines() if '"test_summary"' in line]
    assert [(item["failed"], item["errored"], item["skipped"], item["passed"] > 0) for item in summary] == [
        (0, 0, 0, True)]
