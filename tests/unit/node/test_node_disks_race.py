"""What a writer puts on the disk between the check and mkfs is never lost (R1 does it 1,000 times)."""

from __future__ import annotations

import nvme_race
import pytest

pytestmark = pytest.mark.root


def test_no_signature_that_came_between_check_and_mkfs_is_lost() -> None:
    if not nvme_race.can_run():
        pytest.skip("needs root and loop devices: run as root on a machine with /dev/loop-control")
    found = nvme_race.race(6)
    assert found["lost"] == [] and found["counted"][nvme_race.BETWEEN] == 6
