"""The one registry of reason codes: what each means, what usually causes it, and the command that repairs it.

`docs/reason-codes.md` is `judge-node reasons --markdown`. Codes are only ever added; their names never change.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """One code. `exit_code`: 1 = it failed, 2 = wrong input, 3 = refused (nothing was touched), 130 = interrupted."""

    code: str
    link: str
    meaning: str
    causes: tuple[str, ...]
    repair: str
    exit_code: int = 1


_ALL = (
    Reason(
        "DISK_NONE",
        "disk",
        "No local disk on this node matches what was asked for.",
        (
            "the instance type has no instance store",
            "the path given with --device does not exist",
            "the controller model is not in the list of accepted models",
        ),
        "lsblk -o NAME,MODEL,SERIAL,SIZE   # then set nvme_device or nvme_instance_store_models",
        3,
    ),
    Reason(
        "DISK_NOT_LOCAL",
        "disk",
        "The disk is a network volume (EBS): it is never formatted, whatever the settings say.",
        ("nvme_device names a volume", "nvme_instance_store_models lists the model of EBS"),
        "ls -l /dev/disk/by-id/ | grep Instance_Storage   # and set nvme_device to one of these, or to null",
        3,
    ),
    Reason(
        "DISK_TOO_SMALL",
        "disk",
        "The disk is smaller than a filesystem needs.",
        ("nvme_device names another disk than meant",),
        "lsblk -o NAME,MODEL,SERIAL,SIZE   # and choose a disk of at least 300 MiB",
        3,
    ),
    Reason(
        "DISK_TOO_FEW",
        "disk",
        "There are not enough blank disks for the strategy.",
        ("RAID10 on an instance type with fewer than four disks", "a disk holds data, and is left out"),
        "judge-node disks plan --mount-path PATH   # then set nvme_strategy to RAID0, or release what holds old data",
        3,
    ),
    Reason(
        "DISK_FOREIGN_DATA",
        "disk",
        "The disk carries a filesystem, a partition table or other data that is not ours.",
        (
            "the disk was used by something else before",
            "it is not the instance store",
            "an earlier mkfs was cut off by a power loss",
        ),
        "wipefs -n DISK && blkid -p DISK   # look first; only a person may erase: judge-node disks release DISK",
        3,
    ),
    Reason(
        "DISK_BUSY",
        "disk",
        "Something holds the disk: a mount, swap, RAID, LVM, or a program that opened it exclusively.",
        ("it backs the running system", "nodeadm built an array from it", "it is mounted in another namespace"),
        "lsblk DISK; cat /proc/mdstat; grep DISK /proc/*/mountinfo   # find the owner and let it go",
        3,
    ),
    Reason(
        "DISK_AMBIGUOUS",
        "disk",
        "More than one disk could be the one, and nothing says which.",
        ("two disks carry our marker", "a disk was cloned"),
        "judge-node disks status --mount-path PATH --device /dev/disk/by-id/NAME   # then set nvme_device",
        3,
    ),
    Reason(
        "DISK_UNKNOWN",
        "disk",
        "The disk could not be examined in full, so nothing is done to it.",
        ("it returns read errors", "it is read-only", "it has no device node here", "blkid or wipefs did not answer"),
        "dmesg | grep DISK   # a failing instance store is replaced by stopping and starting the instance",
        3,
    ),
    Reason(
        "DISK_FAILED",
        "disk",
        "The kernel reported an input/output error, or the filesystem went read-only.",
        ("the disk is failing", "the filesystem shut itself down"),
        "dmesg | tail -50   # then drain the node, stop and start the instance, and run the site again",
    ),
    Reason(
        "ARRAY_INCOMPLETE",
        "disk",
        "Of our array so many disks are missing that it cannot be started; what was on it is lost.",
        ("one disk of a RAID0 came back blank, or failed", "a disk has not appeared yet"),
        "judge-node disks release DISK --serial SERIAL   # for each disk that is left; then judge-node disks ensure",
        3,
    ),
    Reason(
        "ARRAY_FAILED",
        "disk",
        "mdadm failed.",
        ("the kernel has no driver for the RAID level", "another program took a disk in between"),
        "cat /proc/mdstat; dmesg | tail",
    ),
    Reason(
        "SERIAL_MISMATCH",
        "disk",
        "To wipe a disk its serial number has to be given, and another one was, or none.",
        ("the disk's name has changed since it was looked at",),
        "lsblk -o NAME,MODEL,SERIAL,SIZE   # then judge-node disks release DISK --serial SERIAL",
        3,
    ),
    Reason(
        "OWNER_NOT_READY",
        "disk",
        "nodeadm owns the local disks (nvme_owner), and has mounted nothing yet.",
        ("nodeadm is still at work", "its NodeConfig has no localStorage", "nvme_nodeadm_path is not its mountPath"),
        "journalctl -u nodeadm-run; findmnt   # wait for it, or set nvme_owner to judge",
        3,
    ),
    Reason(
        "NOT_ROOT",
        "node",
        "Disks can only be opened by root.",
        ("judge-node was started without sudo", "the role runs without become"),
        "run it again with sudo",
        2,
    ),
    Reason(
        "FS_STALE",
        "disk",
        "What is mounted, or the mount unit, names a filesystem that is not on the disk any more.",
        ("the instance was stopped and started and came back with blank disks",),
        "judge-node disks ensure --mount-path PATH",
    ),
    Reason(
        "FS_MISMATCH",
        "disk",
        "The disk is ours but has another filesystem type than the one asked for.",
        ("nvme_fstype was changed after the first run",),
        "set nvme_fstype back to what the disk has; a filesystem with data is never remade",
        3,
    ),
    Reason(
        "FS_CREATE_FAILED",
        "disk",
        "mkfs, mount or the mount unit failed.",
        ("the kernel has no driver for the filesystem", "another program took the disk in between"),
        "judge-node disks status --mount-path PATH; dmesg | tail",
    ),
    Reason(
        "MOUNT_MISSING",
        "disk",
        "The path is not on a mounted local disk, so writing there would fill the root filesystem.",
        ("the disk was never prepared on this node", "the mount failed after a reboot"),
        "judge-node disks ensure --mount-path PATH",
        3,
    ),
    Reason(
        "MOUNT_WRONG_DEVICE",
        "disk",
        "Another filesystem is mounted where ours should be.",
        ("an EBS volume, a tmpfs or an array of another tool is mounted at the path", "two tools manage the same path"),
        "findmnt PATH   # unmount it, or set nvme_mount_path to another path",
        3,
    ),
    Reason(
        "MOUNT_ELSEWHERE",
        "disk",
        "Our filesystem is mounted, at another path than the one wanted.",
        ("nvme_mount_path was changed after the first run",),
        "umount OLD_PATH   # when nothing uses it any more; then run again",
        3,
    ),
    Reason(
        "MOUNT_POINT_IN_USE",
        "disk",
        "The mount point is not an empty directory, so mounting would hide what is in it.",
        ("something wrote there while the disk was not mounted", "the path is a file or a symbolic link"),
        "ls -la PATH   # move it away, then run again",
        3,
    ),
    Reason(
        "TOOL_MISSING",
        "disk",
        "A program that the work needs is not installed on the node.",
        ("a minimal image",),
        "dnf install -y util-linux xfsprogs e2fsprogs mdadm   # or the same with: apt-get install -y",
        3,
    ),
    Reason(
        "SPACE_SHORT",
        "model",
        "The filesystem has not enough free space for the model.",
        ("the disk is smaller than the model", "other models or files fill it"),
        "df -h STORE; du -sh STORE/*   # remove models that nothing serves",
    ),
    Reason(
        "SOURCE_UNREACHABLE",
        "model",
        "The model source does not answer, or answers with server errors, after all retries.",
        ("no route or DNS from the node", "a proxy or firewall", "the Hub or the mirror is down"),
        "curl -sSI ENDPOINT   # on the node; then run again: what is fetched already is kept",
    ),
    Reason(
        "SOURCE_DENIED",
        "model",
        "The model source refused: the token is missing, wrong, or has no access to the model.",
        ("a gated model whose terms were not accepted", "an expired token", "the repository does not exist"),
        "hf auth whoami   # with the node's token; then check access to the model on the Hub",
    ),
    Reason(
        "TOKEN_UNAVAILABLE",
        "model",
        "The node could not get the Hub token with its own role from Secrets Manager or SSM.",
        (
            "the instance has no role, or a pod has neither Pod Identity nor a metadata hop limit of 2",
            "no route to Secrets Manager or SSM (a VPC endpoint)",
            "no such secret or parameter in this region, or it holds something else",
        ),
        "aws sts get-caller-identity   # on the node: which role has it? then look at the secret's name and region",
    ),
    Reason(
        "SOURCE_NOT_FOUND",
        "model",
        "The source has no such repository, commit or file.",
        ("a typing error in model.id or model.revision", "the commit was removed upstream"),
        "judge-bootstrap config show   # check model.id and model.revision",
    ),
    Reason(
        "SOURCE_RATE_LIMITED",
        "model",
        "The source limits the rate of requests, for longer than the run waits.",
        ("many nodes behind one address", "anonymous requests"),
        "run again later (what is fetched is kept), use a token, or a mirror: model_cache_hub_endpoint",
    ),
    Reason(
        "INTEGRITY_MISMATCH",
        "model",
        "Bytes are not those that the manifest names.",
        ("a corrupted download or mirror", "a disk error", "a file was changed by hand"),
        "judge-node cache sync MANIFEST --store STORE --deep   # hashes everything, and fetches again what is wrong",
    ),
    Reason(
        "MODEL_INCOMPLETE",
        "model",
        "The snapshot is not complete, or nothing vouches for it.",
        ("the sync never ran or was cut", "the disk was replaced", "shards are missing from the manifest"),
        "judge-node cache sync MANIFEST --store STORE",
    ),
    Reason(
        "MODEL_STALE",
        "model",
        "The node holds another commit than the one wanted.",
        ("the revision was changed and the node not yet synced",),
        "judge-bootstrap run model_cache --limit NODE",
    ),
    Reason(
        "MODEL_IN_USE",
        "model",
        "A process uses the model, so it is not removed.",
        ("a pod serves it", "a shell works in its folder", "a process names its commit or its repository"),
        "judge-node cache list   # says which process, of which pod; end it first",
        3,
    ),
    Reason(
        "MODEL_KEPT",
        "model",
        "The model is pinned, or current, or was not brought by judge-node, so it is not removed.",
        ("somebody wants to keep it (judge-node cache pin)", "a branch points at it, and the next pod will want it"),
        "judge-node cache list   # says why it is kept",
        3,
    ),
    Reason(
        "USE_UNKNOWN",
        "model",
        "Who uses the models cannot be read on this node, so nothing was deleted.",
        ("judge-node was started without sudo", "it runs in a container, which does not see the node's processes"),
        "sudo judge-node cache prune   # on the node itself, not in a container",
        3,
    ),
    Reason(
        "FILE_FORBIDDEN",
        "model",
        "The manifest names a file that may not be stored: code, pickle, or a path that leaves the snapshot.",
        ("a repository with .bin, .pt, .pkl or .py files", "a manifest made by another tool"),
        "make the manifest again with the model_cache role: it lists safetensors, JSON and tokenizer files only",
        2,
    ),
    Reason(
        "LOCK_FILE_UNUSABLE",
        "model",
        "The lock file of the model is missing, is no manifest, or is of another model or revision than the settings.",
        ("model.id or model.revision was changed and the lock file was not", "a typing error in model_cache_lock_file"),
        "judge-bootstrap --env ENV models lock   # says what changes; commit what it writes",
        2,
    ),
    Reason(
        "MANIFEST_UNUSABLE",
        "model",
        "What says which model is wanted is missing or is no manifest; the last good one stays in force.",
        ("the ConfigMap judge-loader-models was edited by hand", "the role has not run for this namespace"),
        "judge-bootstrap --env ENV run vllm_k8s   # writes judge-loader-models anew",
        2,
    ),
    Reason(
        "MIRROR_FAILED",
        "model",
        "The S3 mirror could not be read or written.",
        ("no such bucket", "no credentials, or none that may write there", "S3 cannot be reached"),
        "aws sts get-caller-identity; aws s3 ls s3://BUCKET/PREFIX/   # then: judge-bootstrap --env ENV models mirror",
    ),
    Reason(
        "LOCKED",
        "node",
        "Another judge-node works on the same target and did not end in time.",
        ("a sync of a big model is running", "the loader pod and an operator at once"),
        "pgrep -af judge-node   # wait for it, or raise --lock-wait",
        3,
    ),
    Reason(
        "UNIT_FAILED",
        "node",
        "systemd did not take a unit or timer of ours.",
        ("/etc/systemd/system is read-only", "a unit of that name is masked"),
        "systemctl status judge-node-verify-quick.timer judge-node-verify-deep.timer",
    ),
    Reason(
        "JOB_LOST",
        "node",
        "The sync that ran in the background is gone without a result. What it fetched is kept.",
        ("it was killed, by hand or because memory ran out", "the node was restarted"),
        "judge-node cache sync MANIFEST --store STORE   # goes on where it was; journalctl -k tells what killed it",
    ),
    Reason(
        "NODE_NOT_JOINED",
        "node",
        "The instance runs but Kubernetes has no node for it.",
        ("wrong NodeConfig", "no route to the API server", "the IAM role is not mapped"),
        "journalctl -u nodeadm-run -u kubelet   # on the node",
    ),
    Reason(
        "CLUSTER_UNREACHABLE",
        "cluster",
        "The Kubernetes API server gives no usable answer, or the kubeconfig does not lead to one.",
        ("no kubeconfig, or the wrong context in it", "expired credentials", "no route to a private API endpoint"),
        "kubectl cluster-info   # vllm_k8s_kubeconfig, vllm_k8s_context",
    ),
    Reason(
        "CLUSTER_DENIED",
        "cluster",
        "The API server knows who asks and does not allow it.",
        ("the role of whoever runs this has no access entry in the cluster", "RBAC lacks a verb or a kind"),
        "judge-bootstrap --env ENV preflight   # lists every right that is missing",
    ),
    Reason(
        "CLUSTER_REFUSED",
        "cluster",
        "The API server, or a policy in it, does not take an object as it is. Nothing was applied.",
        ("an admission policy of the cluster", "an older Kubernetes without a field", "a field that cannot be changed"),
        "judge-bootstrap --env ENV run vllm_k8s --check --diff",
    ),
    Reason(
        "POD_FORBIDDEN",
        "cluster",
        "The namespace, or a policy, would refuse the pods. Nothing was applied.",
        ("the namespace was made by others and enforces another Pod Security level", "a policy wants images by digest"),
        "kubectl get namespace NAMESPACE --show-labels",
    ),
    Reason(
        "SECRET_FOREIGN",
        "cluster",
        "A Secret of the name that judge-bootstrap would write is there and was not made by it; it is left alone.",
        ("it was made with kubectl, or by another tool", "another judge uses the same name"),
        "kubectl -n NAMESPACE get secret NAME --show-labels   # set another name, or delete it",
        3,
    ),
    Reason(
        "SECRET_UNUSABLE",
        "cluster",
        "A Secret, or what was given for one, does not hold one line of printable text under the key that is needed.",
        ("HF_TOKEN is empty", "the file had two lines", "the Secret has no key `token` or `api-key`"),
        "judge-bootstrap --env ENV secrets apply",
    ),
    Reason(
        "GPU_NONE",
        "cluster",
        "No node of the cluster matches the node selector, or none has a free GPU for the replicas.",
        ("no GPU node has joined", "the selector names another label", "the NVIDIA device plugin does not run"),
        "kubectl get nodes -l SELECTOR -o wide; kubectl describe node NODE",
    ),
    Reason(
        "NETWORK_POLICY_UNENFORCED",
        "cluster",
        "The cluster takes NetworkPolicies and does not enforce them: every pod of the cluster reaches the judge.",
        ("the network plugin ignores them (bridge, flannel, aws-node without its policy agent)",),
        "aws eks update-addon --addon-name vpc-cni --configuration-values '{\"enableNetworkPolicy\":\"true\"}' "
        "--cluster-name CLUSTER   # or install Calico or Cilium",
    ),
    Reason(
        "POD_PENDING",
        "pod",
        "A pod of ours, the serving one or the one that prepares a disk, cannot be created, scheduled or started.",
        (
            "no free GPU",
            "a taint or a node selector that no node meets",
            "its volume is not bound",
            "its image cannot be pulled",
            "the namespace forbids privileged pods",
        ),
        "kubectl -n llm-judge describe pod",
    ),
    Reason(
        "PROBE_FAILING",
        "pod",
        "The serving container runs, but its probe does not pass in time.",
        ("the model is still loading", "not enough GPU memory", "wrong arguments"),
        "kubectl -n llm-judge logs deploy/judge-inference-service",
    ),
    Reason(
        "API_KEY_UNAVAILABLE",
        "pod",
        "The gateway has no API key to compare with, so it lets nobody in and is not ready.",
        ("the Secret's key is empty", "it is mounted at another path", "the pod's user may not read it"),
        "kubectl -n llm-judge get secret judge-api-key -o name; judge-bootstrap --env ENV run vllm_k8s",
    ),
    Reason(
        "SERVICE_EMPTY",
        "pod",
        "No ready pod stands behind the Service, or it is not there.",
        ("the pods are not ready", "the Service's selector matches no pod", "it was removed by hand"),
        "judge-bootstrap --env ENV health; judge-bootstrap --env ENV run vllm_k8s",
    ),
    Reason(
        "LOADER_FAILING",
        "pod",
        "The loader's pods do not run, so no new node gets its model.",
        (
            "its namespace does not allow what the pod needs (Pod Security)",
            "its image cannot be pulled",
            "it has no right to patch nodes",
        ),
        "judge-bootstrap --env ENV logs --loader; judge-bootstrap --env ENV run vllm_k8s",
    ),
    Reason(
        "ROLLOUT_PAUSED",
        "pod",
        "The Deployment is paused, so nothing rolls.",
        ("an update with --canary was interrupted", "somebody paused it by hand"),
        "judge-bootstrap --env ENV models update   # or: models rollback; by hand: kubectl rollout resume",
        3,
    ),
    Reason(
        "ROLLBACK_NONE",
        "pod",
        "There is no earlier commit to which the pods could go back.",
        ("no update was made", "its ReplicaSet was removed"),
        "judge-bootstrap --env ENV run model_cache vllm_k8s -e model.revision=COMMIT",
    ),
    Reason(
        "WRONG_MODEL_SERVED",
        "verdict",
        "The service answers, but with another model or commit than the one wanted.",
        ("an old pod is still served", "another service has the same name"),
        "judge-bootstrap run vllm_k8s verify",
    ),
    Reason(
        "GOLDEN_DRIFT",
        "verdict",
        "Fixed answers are scored differently than the accepted baseline.",
        ("another model, image or prompt", "another GPU type"),
        "judge-bootstrap --env ENV models baseline --out FILE --check   # which answers are off, and by how much",
    ),
    Reason(
        "GOLDEN_FILE_UNUSABLE",
        "verdict",
        "The file of golden answers is missing, is none, or was accepted with other prompts.",
        ("a typing error in vllm_k8s_golden_file", "it was edited by hand", "an upgrade changed the prompts"),
        "judge-bootstrap --env ENV models baseline --out FILE   # then review and commit it",
        2,
    ),
    Reason(
        "LATENCY_UNSETTLED",
        "verdict",
        "The judge answers, but its latency did not settle within the requests and the time that were allowed.",
        ("the pod still compiles graphs", "other requests use the same GPU", "too few requests were allowed"),
        "judge-bootstrap --env ENV warmup --requests 120; judge-bootstrap --env ENV health --verbose",
    ),
    Reason(
        "API_KEY_WRONG",
        "verdict",
        "The server does not take the API key that we hold for it.",
        ("the Secret was changed by hand and the pods have not seen it yet", "another judge answers there"),
        "judge-bootstrap --env ENV secrets apply --check; judge-bootstrap --env ENV health",
    ),
    Reason(
        "VERDICT_INVALID",
        "verdict",
        "The server answers, but not with a verdict of the agreed form.",
        ("it was started without structured outputs", "the answer was cut at its token limit", "it is no chat model"),
        "kubectl -n llm-judge logs deploy/judge-inference-service",
    ),
    Reason(
        "INVENTORY_EMPTY",
        "run",
        "The inventory was read and has no GPU node.",
        ("the nodes are stopped", "their tags are not those that the inventory looks for", "another region or account"),
        "ansible-inventory -i inventory/ENV --graph",
        3,
    ),
    Reason(
        "INVENTORY_SHORT",
        "run",
        "The inventory has fewer GPU nodes than the environment expects.",
        ("nodes are stopped or have lost a tag", "expected_hosts is out of date"),
        "ansible-inventory -i inventory/ENV --graph   # then start them, or correct expected_hosts",
        3,
    ),
    Reason(
        "INVENTORY_UNREADABLE",
        "run",
        "The inventory could not be read, which is not the same as empty.",
        ("no valid AWS credentials", "AWS cannot be reached", "a mistake in the inventory's files"),
        "judge-bootstrap --env ENV doctor",
        3,
    ),
    Reason(
        "HOST_UNKNOWN",
        "run",
        "No host of the inventory matches --limit.",
        ("a typing error", "the node is gone, or belongs to another environment"),
        "ansible-inventory -i inventory/ENV --graph",
        3,
    ),
    Reason(
        "NODE_UNREACHABLE",
        "run",
        "The node does not answer over ssh (or, asked through Kubernetes, its kubelet), or the connection was lost.",
        ("it is stopping or was cut off", "a security group or a missing key", "its host key changed"),
        "ssh NODE   # then the run's own command again, with --limit NODE",
    ),
    Reason(
        "NODE_SILENT",
        "run",
        "The inventory names this node, but no task reported from it, so nothing is known of it.",
        ("--tags or --limit left nothing to do on it", "an earlier step ended the play for it"),
        "judge-bootstrap --env ENV run preflight --limit NODE",
    ),
    Reason(
        "INTERRUPTED",
        "run",
        "The run was stopped before this node was done. Nothing is left running, and nothing half-done counts as done.",
        ("Ctrl-C", "a signal from a supervisor or a closed terminal"),
        "judge-bootstrap --env ENV   # the same command again does only what is left",
        130,
    ),
)

REASONS: dict[str, Reason] = {reason.code: reason for reason in _ALL}


def repair(code: str, **names: str) -> str:
    """Return the repair command of `code` with its words in capitals replaced by the values given."""
    command = REASONS[code].repair
    for word, value in names.items():
        command = command.replace(word, value)
    return command


def as_markdown() -> str:
    """Return docs/reason-codes.md."""
    lines = [
        "# Reason codes",
        "",
        "Generated by `judge-node reasons --markdown`; do not edit. Every failure in JSON, text, annotations and exit",
        "messages carries one of these. Exit code 1: it failed; 2: wrong input; 3: refused for safety, and nothing was",
        "touched. Words in capitals in a command (DISK, PATH, STORE, ...) stand for the values in the message.",
    ]
    for link in dict.fromkeys(reason.link for reason in _ALL):
        lines += ["", f"## {link.capitalize()}"]
        for reason in (r for r in _ALL if r.link == link):
            lines += [
                "",
                f"### {reason.code}",
                "",
                f"{reason.meaning} Exit code {reason.exit_code}.",
                "",
                "Likely causes:",
                "",
            ]
            lines += [f"- {cause}" for cause in reason.causes]
            lines += ["", "Repair:", "", "```sh", reason.repair, "```"]
    return "\n".join(lines) + "\n"


def as_text() -> str:
    """Return one line a code."""
    width = max(len(code) for code in REASONS)
    return "".join(f"{reason.code:<{width}}  {reason.meaning}\n" for reason in _ALL)
