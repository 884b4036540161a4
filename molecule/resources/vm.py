"""A virtual machine for a scenario: systemd, two instance-store disks, and a volume that comes before the root disk.

vm.py up DIR            DIR gets: port, id_ed25519, known_hosts (alias "vm"), console.log. Idempotent.
vm.py stop-start DIR    what EC2 does: its instance stores come back blank; the port may be another one
vm.py volume DIR        prints the digest of the volume, which nobody may write
vm.py down DIR          ends it and removes its disks
"""

from __future__ import annotations

import sys
from pathlib import Path

from judge_lab import LabError
from judge_lab.vm import EBS, Machine, digest


def main(verb: str, folder: Path) -> None:
    machine = Machine(folder, report=print)
    if verb == "up" and not machine.running():
        volume = machine.new_disk(model=EBS)
        with volume.image.open("r+b") as image:
            image.seek(300 * 1024**2)
            image.write(b"somebody's data, without any signature" * 100)
        stores = [machine.new_disk(size_bytes=512 * 1024**2) for _ in range(2)]
        machine.start([volume, machine.root, *stores])
    elif verb == "stop-start":
        machine.stop()
        machine.start()
    elif verb == "volume":
        sys.stdout.write(digest(machine.disks[0].image) + "\n")
    elif verb == "down":
        machine.remove()
    if machine.running():
        (folder / "port").write_text(str(machine.port))


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except LabError as error:
        sys.exit(f"{error.message}. Next: {error.hint}" if error.hint else error.message)
