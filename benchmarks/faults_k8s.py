"""R7 and R10: the role through an API server that answers one request in ten badly; what a served pod gives away.

On the local site, which this brings up: R7 with pods on nodes of kwok, in namespaces of its own, so that no round
waits for a model; R10 with the pod that the chain serves. 1 round of four runs with SCALE=small, 50 in full.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pytool"))

import gateway_routes
from figures import Figure, report, small
from judge_bootstrap.adapters.kube import connect
from judge_bootstrap.adapters.kube_secrets import read_api_key
from judge_lab import LabError, layout, prerequisites
from k8s_drills import converge, exposure, kwok_nodes
from k8s_drills.faulty_api import KINDS, Plan, faulty_api
from k8s_drills.role import NODE_ANNOTATIONS, NODE_LABELS

ROUNDS = 1 if small() else 50
FIRST_SEED = 2  # with an odd seed others made the server's namespace
NAMESPACE, LOADER_NAMESPACE, KEY_SECRET = "llm-judge", "llm-judge-loader", "judge-api-key"
# In small the odd spellings are those of these routes alone; every route is asked with every method in both.
SPELLED = ("/v1/models", "/v1/chat/completions", "/metrics", "/version")


def r7(kubeconfig: Path, folder: Path) -> list[Figure]:
    """Return both figures of R7: rounds in which everything held, and objects that nobody asked for."""
    client = connect(str(kubeconfig))
    nodes = [kwok_nodes.node(f"kwok-r7-{number}", NODE_LABELS, annotations=NODE_ANNOTATIONS) for number in range(3)]
    rounds = []
    with kwok_nodes.kwok_nodes(kubeconfig, folder, nodes), \
            faulty_api(kubeconfig, folder, Plan(rate=0)) as api:
        for seed in range(FIRST_SEED, FIRST_SEED + ROUNDS):
            rounds.append(converge.play(api, kubeconfig, folder, seed))
            for problem in rounds[-1].wrong:
                sys.stderr.write(f"R7, seed {seed}: {problem}\n")
        converge.wait_until_gone(client, [f"drill-{one.seed}" for one in rounds])
    struck: Counter[str] = Counter()
    for one in rounds:
        struck.update(one.struck)
    quiet = [kind for kind in KINDS if not struck[kind]]
    converged = 0.0 if quiet else round(100 * sum(one.converged for one in rounds) / len(rounds), 1)
    requests = sum(one.requests for one in rounds)
    detail = {"rounds": len(rounds), "runs": sum(len(one.seconds) for one in rounds), "requests": requests,
              "struck": dict(struck), "struck_percent": round(100 * struck.total() / max(requests, 1), 1),
              "never_struck": quiet, "asked_again_before_retry_after": sum(len(one.hasty) for one in rounds),
              "seeds_that_failed": [one.seed for one in rounds if not one.converged]}
    duplicates = [name for one in rounds for name in one.duplicates]
    return [Figure("R7", converged, ">= 100 %", {"what": "rounds that converged", **detail}),
            Figure("R7", len(duplicates), "== 0", {"what": "duplicates", "names": duplicates[:10]})]


def r10(kubeconfig: Path) -> list[Figure]:
    """Return both figures of R10: routes answered without the key, and pods that `restricted` refuses."""
    client = connect(str(kubeconfig))
    pod = exposure.served_pod(client, NAMESPACE)
    key = read_api_key(client, NAMESPACE, KEY_SECRET)
    found = exposure.routes(client, pod)
    requests = gateway_routes.requests_of(found, odd=not small())
    if small():
        requests += [request for request in gateway_routes.requests_of(
            {path: found.get(path, ("GET",)) for path in SPELLED}) if request not in set(requests)]
    answered = exposure.answered(found, requests, pod.url)
    # That the same requests are answered with the key shows that the server was really there to be asked.
    with_key = {answer.path: answer.status for answer in gateway_routes.probe(
        pod.url, [("GET", "/v1/models"), ("GET", "/metrics")], {"Authorization": f"Bearer {key}"})}
    extra = sorted(exposure.listening(client, pod) - {f"tcp:{pod.port}"})
    names = [f"{answer.method} {answer.path}: {answer.status}" for answer in answered]
    proven = bool(key) and set(with_key.values()) == {200} and len(found) > 5
    detail = {"what": "routes answered without the key, and ports beyond the one", "routes": len(found),
              "requests": len(requests) + len(found), "answered": names[:10], "ports": extra, "with_key": with_key}
    if not proven:
        sys.stderr.write(f"R10 proves nothing: key {'there' if key else 'missing'}, with it {with_key}, "
                         f"{len(found)} routes\n")
    return [Figure("R10", len(names) + len(extra) if proven else -1, "== 0", detail), _exemptions(client)]


def _exemptions(client: Any) -> Figure:
    with exposure.restricted_namespace(client) as name:
        refused = {template: said for template, pod in exposure.pod_templates(client, NAMESPACE).items()
                   if (said := exposure.refused(client, name, pod))}
        templates = exposure.pod_templates(client, NAMESPACE)
        # The loader mounts the disk by hostPath, which `restricted` must refuse: so the trial can fail.
        others = exposure.pod_templates(client, LOADER_NAMESPACE)
        control = bool(others) and all(exposure.refused(client, name, pod) for pod in others.values())
    level = exposure.enforced(client, NAMESPACE)
    proven = bool(templates) and control and level == "restricted"
    return Figure("R10", len(refused) if proven else -1, "== 0", {
        "what": "pods that need an exemption from restricted", "templates": sorted(templates), "refused": refused,
        "enforced": level, "loader_refused_there": control})


def main() -> int:
    """Print R7 and R10."""
    try:
        prerequisites.check()
        kwok_nodes.binary()
    except LabError as error:
        sys.stderr.write(f"R7 and R10 need the lab and kwok: {error}\n")
        return 2
    chain = subprocess.run([Path(sys.executable).parent / "judge-bootstrap", "--env", "local"],
                           stdout=sys.stderr, check=False)
    if chain.returncode:
        sys.stderr.write("R10 needs the whole chain. Next: judge-bootstrap --env local\n")
        return chain.returncode
    kubeconfig = layout.current().kubeconfig
    with tempfile.TemporaryDirectory(prefix="judge-drill.") as folder:
        return report(*r7(kubeconfig, Path(folder)), *r10(kubeconfig))


if __name__ == "__main__":
    sys.exit(main())
