"""An instance that boots for the first time, and again: a virtual machine with cloud-init and two instance stores.

It gets the user data as EC2 would hand it over. What the EKS AMI has and Debian lacks (nodeadm, containerd, kubelet)
are stand-ins; cloud-init brings them as the image's own data, which the user data does not know of.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from judge_lab.vm import HOST_SEEN_FROM_INSIDE, Disk, Machine
from judge_lab.vm_cloud_init import CloudInit
from judge_node.bundle import build_pyz
from nvme_drills import nodeadm
from ports import kept_port

MIB = 1024**2
DISK_BYTES = 1200 * MIB
_GUEST = Path(__file__).with_name("guest")
# Until all is done that a boot starts: some ten tries of a fetch are part of it, and other machines run beside it.
_BOOT_SECONDS = 1800
_DAEMON = """\
[Unit]
Description=Stands in for {name}: says what it saw
{after}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'findmnt -no UUID,FSROOT /mnt/nvme >/run/{name}-saw || echo nothing >/run/{name}-saw'
"""
_NODEADM_RUN = """\
[Unit]
Description=Stands in for EKS Nodeadm Run
After=cloud-final.service
[Service]
Type=oneshot
ExecStart=/usr/bin/nodeadm init --skip config
[Install]
WantedBy=multi-user.target
"""
_LOCAL_STORAGE = f"""\
set -eu
dir=$1
fail() {{ echo "local storage: $*" >&2; exit 1; }}
wait_for() {{ n=0; until eval "$1"; do n=$((n+1)); [ $n -lt 300 ] || fail "waited in vain for $1"; sleep 0.2; done; }}
set -- $(find -L /dev/disk/by-id/ -xtype l -name '*NVMe_Instance_Storage_*' | xargs realpath | sort -u)
[ $# = 2 ] || fail "this stand-in wants two disks, found $*"
A=$1 B=$2
{nodeadm.ARRAY}"""
# The pauses between tries take four minutes in all. What is found by PATH, as the script's `sleep` is, takes a second.
_SLEEP = '#!/bin/sh\ncase $1 in ? | ??) set -- 1 ;; esac\nexec /usr/bin/sleep "$1"\n'


class ProgramServer:
    """Where nodes fetch judge-node.pyz: a server on the loopback that can be down, or give something else."""

    def __init__(self) -> None:
        self.program = self.body = build_pyz()
        self.requests: list[str] = []
        # Until close(), also while the server is down.
        self._kept = ExitStack()
        self.port = self._kept.enter_context(kept_port())

    def close(self) -> None:
        """Give the port back."""
        self._kept.close()

    @property
    def url(self) -> str:
        """The address as the machine sees it."""
        return f"http://{HOST_SEEN_FROM_INSIDE}:{self.port}/judge-node.pyz"

    @contextmanager
    def up(self) -> Iterator[None]:
        """Serve until the block ends. Outside of it every connection is refused."""
        server = self._new()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def _new(self) -> ThreadingHTTPServer:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return ThreadingHTTPServer(("127.0.0.1", self.port), Handler)


@dataclass(frozen=True)
class Seen:
    """An instance as it stands when a boot has come to rest (guest/look.py says what `facts` has)."""

    facts: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.facts[name]

    def state(self, unit: str) -> str:
        """Return a unit's ActiveState."""
        return str(self.units[unit]["ActiveState"])

    def at(self, unit: str, moment: str) -> float:
        """Return when it was, in seconds since the boot; 0 means that it has not been."""
        return int(self.units[unit][f"{moment}TimestampMonotonic"]) / 1e6

    def kubelet_saw(self) -> str:
        """Return the UUID and the folder that were at the mount path when kubelet started, or `nothing`."""
        return " ".join((self.facts["kubelet_saw"] or "").split())


@dataclass
class Instance:
    """A machine with user data. `disks` are those of the boot that is on; after a stop they are others."""

    machine: Machine

    @property
    def disks(self) -> list[Disk]:
        """Its instance stores."""
        return [disk for disk in self.machine.disks if not disk.overlay]

    @property
    def serials(self) -> list[str]:
        """The serials of its instance stores."""
        return sorted(disk.serial for disk in self.disks)

    def launch(self, disks: Sequence[Disk]) -> Seen:
        """Boot for the first time, and return what has become of it."""
        self.machine.forget_root()
        self.machine.start([self.machine.root, *disks], wait_seconds=_BOOT_SECONDS)
        return self.rest()

    def reboot(self) -> Seen:
        """Boot again with the same disks."""
        self.machine.reboot(_BOOT_SECONDS)
        return self.rest()

    def stop_and_start(self) -> Seen:
        """Boot again with other, blank disks."""
        self.machine.stop(600)
        self.machine.start(wait_seconds=_BOOT_SECONDS)
        return self.rest()

    def rest(self) -> Seen:
        """Wait until nothing moves any more: nodeadm has asked for kubelet, which has been started or is held back.

        A boot unit that had failed is tried once more then, because kubelet requires it.
        """
        # What is left in the end is at most nodeadm, which waits for a kubelet that does not come. Seldom asked: each
        # question takes the emulated CPU half a second.
        self.machine.run(
            "until [ -e /run/stand-in/asked-for-kubelet ]; do /usr/bin/sleep 1; done\n"
            "while true; do\n"
            "  case $(systemctl show --property=ActiveState --value kubelet judge-node-disks | xargs) in\n"
            "    active*) systemctl is-system-running --wait >/dev/null || true; exit 0 ;;\n"
            "    *failed) systemctl list-jobs --no-legend | grep -qE ' (kubelet|judge-node-disks)' || exit 0 ;;\n"
            "  esac\n"
            "  /usr/bin/sleep 3\n"
            "done",
            timeout=_BOOT_SECONDS,
        )
        return self.look()

    def look(self) -> Seen:
        """Return what can be seen of it now."""
        found = self.machine.run(["python3", "-c", (_GUEST / "look.py").read_text()]).stdout
        return Seen(json.loads(found))


def new_instance(folder: Path, user_data: str, *, name: str = "vm") -> Instance:
    """Return an instance that has not booted yet."""
    given = CloudInit(user_data, _image_brings())
    return Instance(Machine(folder, name=name, cloud_init=given, reaches_host=True))


def _image_brings() -> str:
    """Return the cloud-config that puts the stand-ins there."""
    daemons = {"containerd": "", "kubelet": "After=containerd.service\nWants=containerd.service\n"}
    files = {
        "/usr/bin/nodeadm": (_GUEST / "nodeadm.py").read_text(),
        "/usr/local/lib/stand-in/local-storage.sh": _LOCAL_STORAGE,
        "/usr/local/bin/sleep": _SLEEP,
        "/etc/systemd/system/nodeadm-run.service": _NODEADM_RUN,
        **{f"/etc/systemd/system/{name}.service": _DAEMON.format(name=name, after=after)
           for name, after in daemons.items()},
    }  # fmt: skip
    # On a node the unit is there before the boot; that it comes with the first one must not change its place.
    first = (
        "[ -e /etc/stand-in-is-there ] || { touch /etc/stand-in-is-there; systemctl daemon-reload; "
        "systemctl enable nodeadm-run.service; systemctl start --no-block nodeadm-run.service; }"
    )
    return "#cloud-config\n" + json.dumps({
        "write_files": [{"path": path, "content": text, "permissions": "0755" if "/bin/" in path else "0644"}
                        for path, text in files.items()],
        "bootcmd": [["sh", "-c", first]],
    })  # fmt: skip
