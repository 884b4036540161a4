"""checkov finds nothing in the modules and examples that is not justified where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from terraform.scanner import Scan, ensure_checkov, scan
from terraform.tool import copy_tree

BAD = """
resource "aws_s3_bucket" "planted" {
  bucket = "planted"
}

resource "aws_launch_template" "planted" {
  name = "planted"
}
"""


@pytest.fixture(scope="module")
def checkov() -> Path:
    return ensure_checkov()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan") / "terraform"
    copy_tree(folder)
    return folder


@pytest.fixture(scope="module")
def found(checkov: Path, tree: Path) -> Scan:
    return scan(checkov, tree)


def test_no_check_fails_in_modules_and_examples(found: Scan) -> None:
    assert (found.failed, found.resources > 20, found.passed > 20) == ([], True, True)


def test_each_check_that_is_skipped_says_why_in_words(found: Scan) -> None:
    assert {what for what, why in found.skipped.items() if len(why.split()) < 5} == set()


def test_something_bad_among_the_modules_is_seen(checkov: Path, tree: Path, found: Scan) -> None:
    """An unprotected bucket and a launch template that allows IMDSv1, planted beside what passes."""
    (tree / "planted.tf").write_text(BAD)
    try:
        again = scan(checkov, tree)
    finally:
        (tree / "planted.tf").unlink()
    planted = [item for item in again.failed if item not in found.failed]
    assert {"CKV2_AWS_6 aws_s3_bucket.planted", "CKV_AWS_79 aws_launch_template.planted"} <= set(planted)
    assert all(item.endswith(".planted") for item in planted)
