variable "nvme_owner" {
  description = "Who builds the instance store: `nodeadm` (before it starts kubelet) or `judge` (judge-node's boot unit; needs `judge_node`)."
  type        = string
  default     = "nodeadm"
  nullable    = false

  validation {
    condition     = contains(["nodeadm", "judge"], var.nvme_owner)
    error_message = "nvme_owner is \"${var.nvme_owner}\": it must be nodeadm or judge."
  }
}

variable "nvme_mount_path" {
  description = "Absolute path where the model store's disk is mounted on a node, of at most 200 characters. It becomes a mount of its own: not a directory that the system lives in."
  type        = string
  default     = "/mnt/nvme"
  nullable    = false

  validation {
    condition     = length(var.nvme_mount_path) <= 200 && can(regex("^(/[A-Za-z0-9_@:+-][A-Za-z0-9._@:+-]*)+$", var.nvme_mount_path))
    error_message = "nvme_mount_path is \"${var.nvme_mount_path}\": it must be an absolute path such as /mnt/nvme, of letters, digits and . _ @ : + - between slashes."
  }

  # The same as in judge-node (disks/commands.py), which refuses them on the node: too late.
  validation {
    condition = (
      !can(regex("^/(bin|boot|dev|etc|lib|lib32|lib64|proc|root|run|sbin|sys|usr)(/|$)", var.nvme_mount_path)) &&
      !can(regex("^/(home|mnt|opt|srv|tmp|var|media|var/(lib|log|tmp)|var/lib/(kubelet|containerd)(/.*)?)$", var.nvme_mount_path))
    )
    error_message = "nvme_mount_path is \"${var.nvme_mount_path}\", which the system lives in: it must be a directory of its own, such as /mnt/nvme."
  }
}

variable "nvme_strategy" {
  description = <<-EOT
    How several disks are joined: `RAID0` (all the space and speed, lost with any one disk), `RAID10` (half the space,
    survives a disk; at least 4 disks) or `Mount` (no array: the first disk is used).
  EOT
  type        = string
  default     = "RAID0"
  nullable    = false

  validation {
    condition     = contains(["RAID0", "RAID10", "Mount"], var.nvme_strategy)
    error_message = "nvme_strategy is \"${var.nvme_strategy}\": it must be RAID0, RAID10 or Mount."
  }
}

variable "nvme_fstype" {
  description = "Filesystem that judge-node makes with `nvme_owner = \"judge\"`: `xfs` or `ext4`. nodeadm always makes xfs."
  type        = string
  default     = "xfs"
  nullable    = false

  validation {
    condition     = contains(["xfs", "ext4"], var.nvme_fstype)
    error_message = "nvme_fstype is \"${var.nvme_fstype}\": it must be xfs or ext4."
  }
}

variable "nvme_nodeadm_path" {
  description = "Absolute path below which nodeadm mounts what it builds: an array at `0`, single disks from `1` on. Another than nodeadm's own default needs an EKS AMI that knows `localStorage.mountPath`."
  type        = string
  default     = "/mnt/k8s-disks"
  nullable    = false

  validation {
    condition     = length(var.nvme_nodeadm_path) <= 200 && can(regex("^(/[A-Za-z0-9_@:+-][A-Za-z0-9._@:+-]*)+$", var.nvme_nodeadm_path))
    error_message = "nvme_nodeadm_path is \"${var.nvme_nodeadm_path}\": it must be an absolute path such as /mnt/k8s-disks, of letters, digits and . _ @ : + - between slashes, with no slash at its end."
  }
}

variable "nvme_wait_seconds" {
  description = "Seconds, 0 to 86400, that each boot waits for a disk to appear (with owner nodeadm: for nodeadm to mount it). Too short fails a good node, too long delays the failure of one that has none."
  type        = number
  default     = 300
  nullable    = false

  validation {
    condition     = floor(var.nvme_wait_seconds) == var.nvme_wait_seconds && var.nvme_wait_seconds >= 0 && var.nvme_wait_seconds <= 86400
    error_message = "nvme_wait_seconds is ${var.nvme_wait_seconds}: it must be a whole number from 0 to 86400."
  }
}

variable "judge_node" {
  description = <<-EOT
    Where a node fetches judge-node at its first boot: `url` (https://, http:// or s3://, without credentials) of what
    `judge-node program --out FILE` wrote, and its `sha256`, without which nothing is run. Null: nodes are prepared by
    the playbooks alone.
  EOT
  type = object({
    url    = string
    sha256 = string
  })
  default = null

  # The same as in judge-node (disks/user_data.py), which stands in single quotes in the script.
  validation {
    condition = var.judge_node == null ? true : (
      can(regex("^(https|http|s3)://[!-&(-.0-?A-~][!-&(-~]*$", var.judge_node.url)) &&
      !can(regex("^[a-z0-9]+://[^/]*@", var.judge_node.url))
    )
    error_message = "judge_node.url is ${try(jsonencode(var.judge_node.url), "null")}: it must be https://HOST/PATH or s3://BUCKET/KEY, without a user name, blanks and '."
  }

  validation {
    condition     = var.judge_node == null ? true : can(regex("^[0-9a-f]{64}$", var.judge_node.sha256))
    error_message = "judge_node.sha256 is ${try(jsonencode(var.judge_node.sha256), "null")}: it must be 64 lower-case hex digits, as sha256sum prints them."
  }
}

variable "taints" {
  description = "Taints that kubelet registers the node with: from its first second, while those of a node group come some time after. At most one for a key and an effect."
  type = list(object({
    key    = string
    value  = optional(string, "")
    effect = string
  }))
  default  = []
  nullable = false

  validation {
    condition = alltrue([for taint in var.taints : (
      can(regex("^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[0-9A-Za-z]([0-9A-Za-z._-]{0,61}[0-9A-Za-z])?$", taint.key)) &&
      can(regex("^([0-9A-Za-z]([0-9A-Za-z._-]{0,61}[0-9A-Za-z])?)?$", taint.value))
    )])
    error_message = "taints has ${join(", ", [for taint in var.taints : "${taint.key}=\"${taint.value}\""])}: each key must be one of Kubernetes, such as example.com/gpu, and each value empty or at most 63 letters, digits, '.', '_' and '-'. kubelet would not start."
  }

  validation {
    condition     = alltrue([for taint in var.taints : contains(["NoSchedule", "PreferNoSchedule", "NoExecute"], taint.effect)])
    error_message = "taints has the effects ${join(", ", [for taint in var.taints : "${taint.key}:${taint.effect}"])}: each must be NoSchedule, PreferNoSchedule or NoExecute."
  }

  validation {
    condition     = length(distinct([for taint in var.taints : "${taint.key}:${taint.effect}"])) == length(var.taints)
    error_message = "taints has a key with the same effect twice: ${join(", ", [for taint in var.taints : "${taint.key}:${taint.effect}"])}. kubelet would not start."
  }
}

variable "node_config" {
  description = <<-EOT
    A NodeConfig of your own as YAML (`apiVersion`, `kind` and `spec`), which is merged with what this module writes. Refused
    in its `spec`: `cluster`, which EKS adds, and what other variables set (`instance.localStorage` and the taints of
    `kubelet`). Null for none.
  EOT
  type        = string
  default     = null
}
