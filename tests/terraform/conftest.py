"""One Terraform for the whole suite: found once, its provider linked once."""

from __future__ import annotations

import pytest
from terraform.tool import Terraform, find_terraform


@pytest.fixture(scope="session")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Skip, in CI too, where there is neither the program nor a way to the provider."""
    return find_terraform(tmp_path_factory.mktemp("terraform"))
