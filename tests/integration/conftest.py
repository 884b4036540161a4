"""One local site for the tests of the whole chain; each module that wants another state makes it itself."""

from __future__ import annotations

import pytest
from judge_lab import LabError, prerequisites


@pytest.fixture(scope="session")
def lab_possible() -> None:
    """Skip, saying what is missing, where the lab cannot run."""
    try:
        prerequisites.check()
    except LabError as error:
        pytest.skip(f"the lab cannot run here: {error}")
