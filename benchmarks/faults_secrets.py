"""R6: planted secrets found in output, logs, files, artifacts, argv or environments, over every verb of the CLI.

Secrets are in the user's environment (HF_TOKEN, AWS keys), in a token file on the hosts, in a kubeconfig, and typed
with -e where they do not belong. Looked for as they are, URL-quoted and in base64, during the commands and afterwards.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pytool"))

from figures import Figure, report
from secret_drill import scenarios, secret_drill, verbs
from ssh_hosts import can_run


def main() -> int:
    """Print R6. There is no smaller size: leaving a verb out would leave a check out."""
    if not can_run():
        sys.stderr.write("R6 needs root, sshd and unshare. Next: apt-get install openssh-server util-linux, as root\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="judge-drill.") as folder, secret_drill(Path(folder)) as field:
        played = scenarios(field.watch.secrets["TYPED_TOKEN"])
        missing = verbs() - {scenario.verb for scenario in played}
        if missing:
            sys.stderr.write(f"no scenario for: {', '.join(sorted(missing))}. Next: add one in tests/secret_drill.py\n")
            return 2
        codes = {scenario.name: field.play(scenario) for scenario in played}
        found = sorted({(item.canary, item.where, item.scenario) for item in field.watch.findings})
        typed = field.watch.secrets["TYPED_TOKEN"]
        detail = {"commands": len(codes), "samples": field.watch.samples, "canaries": len(field.watch.secrets),
                  "found": [" | ".join(item).replace(typed, "(typed)") for item in found]}
        looked = {"what": "times that all processes were looked at while the commands ran"}
        return report(Figure("R6", len(found), "== 0", detail),
                      Figure("R6", field.watch.samples, "> 100", looked))


if __name__ == "__main__":
    sys.exit(main())
