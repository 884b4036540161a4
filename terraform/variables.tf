variable "enabled" {
  description = "Whether the module makes anything at all. False removes everything of it and turns every output into null."
  type        = bool
  default     = true
  nullable    = false
}

variable "environment" {
  description = <<-EOT
    The environment, as in `judge-bootstrap --env ENVIRONMENT`: part of every name, and the tag `Environment` by which the
    inventory finds the nodes. A sandbox of it is an environment of its own there: ENVIRONMENT-SANDBOX. 1 to 31 lower-case letters, digits and hyphens. A change replaces the node group.
  EOT
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,30}$", var.environment))
    error_message = "environment is \"${var.environment}\": it must begin with a lower-case letter and have at most 31 lower-case letters, digits and hyphens."
  }
}

variable "sandbox" {
  description = <<-EOT
    A person's or a branch's own copy of the environment, such as `anna` or `pr-412`: part of every name and of the tag
    `Environment` (`prod-anna`), so that copies do not meet. Null for the environment itself. A change replaces the node group.
  EOT
  type        = string
  default     = null

  validation {
    condition     = var.sandbox == null ? true : can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", var.sandbox))
    error_message = "sandbox is ${jsonencode(var.sandbox)}: it must be null, or lower-case letters, digits and hyphens with no hyphen at either end."
  }
}

variable "cluster_name" {
  description = "Name of the EKS cluster that the nodes join. A change replaces the node group."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[0-9A-Za-z][0-9A-Za-z_-]{0,99}$", var.cluster_name))
    error_message = "cluster_name is \"${var.cluster_name}\": an EKS cluster's name begins with a letter or digit and has at most 100 letters, digits, hyphens and underscores (the name, not the ARN)."
  }
}

variable "subnet_ids" {
  description = <<-EOT
    Subnets that the nodes are started in: private ones with a way to the cluster's endpoint, the registry, and S3 or the
    Hub. In more than one availability zone a GPU type is likelier to be found. A change replaces the node group.
  EOT
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.subnet_ids) > 0
    error_message = "subnet_ids is empty: name at least one subnet of the cluster's VPC."
  }

  validation {
    condition     = alltrue([for id in var.subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "subnet_ids has ${join(", ", [for id in var.subnet_ids : jsonencode(id) if !can(regex("^subnet-[0-9a-f]+$", id))])}: each must be the id of a subnet, such as subnet-0a1b2c3d4e5f67890."
  }
}

variable "security_group_ids" {
  description = <<-EOT
    Security groups of the nodes. Empty: the cluster's own, which is read from the cluster, so that it must exist at plan time.
    Otherwise the cluster's must be among them: without it nodes start, are paid for, and never join.
  EOT
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for id in var.security_group_ids : can(regex("^sg-[0-9a-f]+$", id))])
    error_message = "security_group_ids has ${join(", ", [for id in var.security_group_ids : jsonencode(id) if !can(regex("^sg-[0-9a-f]+$", id))])}: each must be the id of a security group, such as sg-0a1b2c3d4e5f67890."
  }

  validation {
    condition     = length(var.security_group_ids) <= 5
    error_message = "security_group_ids has ${length(var.security_group_ids)} groups: EC2 allows 5 on a network interface."
  }
}

variable "capacity_type" {
  description = <<-EOT
    `ON_DEMAND`, or `SPOT` for about a third of the price and nodes that go away with two minutes' notice: then name
    several instance types of the same number of GPUs. A change replaces the node group.
  EOT
  type        = string
  default     = "ON_DEMAND"
  nullable    = false

  validation {
    condition     = contains(["ON_DEMAND", "SPOT"], var.capacity_type)
    error_message = "capacity_type is \"${var.capacity_type}\": it must be ON_DEMAND or SPOT."
  }
}

variable "instance_types" {
  description = <<-EOT
    Instance types, the preferred one first, at most 20. Each must have an NVIDIA GPU and instance store (g4dn, g5, g6,
    g6e, p4d, p5 and others have both; g5g and p3 have no local disk), which the plan proves for every one. Take types with
    equally many GPUs: the cluster-autoscaler plans as if all nodes of a group were alike. A change replaces the node group.
  EOT
  type        = list(string)
  default     = ["g5.xlarge"]
  nullable    = false

  validation {
    condition     = length(var.instance_types) >= 1 && length(var.instance_types) <= 20
    error_message = "instance_types has ${length(var.instance_types)} types: an EKS node group takes 1 to 20."
  }

  validation {
    condition     = alltrue([for type in var.instance_types : can(regex("^[a-z][a-z0-9-]*\\.[a-z0-9-]+$", type))])
    error_message = "instance_types has ${join(", ", [for type in var.instance_types : jsonencode(type) if !can(regex("^[a-z][a-z0-9-]*\\.[a-z0-9-]+$", type))])}: each must be an EC2 instance type, such as g5.xlarge."
  }

  validation {
    condition     = length(distinct(var.instance_types)) == length(var.instance_types)
    error_message = "instance_types names a type twice: ${join(", ", [for type in var.instance_types : jsonencode(type)])}."
  }
}

variable "disk_size_gib" {
  description = <<-EOT
    Size of the encrypted gp3 root volume in GiB, 20 to 16384. With `nvme_owner = "judge"` it also holds images and pods'
    scratch space: a vLLM image takes about 20 GiB unpacked, and a full root disk evicts every pod.
  EOT
  type        = number
  default     = 100
  nullable    = false

  validation {
    condition     = floor(var.disk_size_gib) == var.disk_size_gib && var.disk_size_gib >= 20 && var.disk_size_gib <= 16384
    error_message = "disk_size_gib is ${var.disk_size_gib}: it must be a whole number from 20 (the image's own size) to 16384 (the most of gp3)."
  }
}

variable "ami_type" {
  description = <<-EOT
    The EKS-optimised image with NVIDIA's driver: `AL2023_x86_64_NVIDIA` or `AL2023_ARM_64_NVIDIA`. It must fit the
    architecture of every instance type. A change replaces the node group.
  EOT
  type        = string
  default     = "AL2023_x86_64_NVIDIA"
  nullable    = false

  validation {
    condition     = !startswith(var.ami_type, "AL2_")
    error_message = "ami_type is \"${var.ami_type}\": the EKS images of Amazon Linux 2 reached their end of support on 26 November 2025 and have no nodeadm. Use AL2023_x86_64_NVIDIA or AL2023_ARM_64_NVIDIA."
  }

  validation {
    condition     = !startswith(var.ami_type, "BOTTLEROCKET_")
    error_message = "ami_type is \"${var.ami_type}\": Bottlerocket has neither nodeadm nor a place for judge-node's boot unit, so nothing would prepare the instance store. Use AL2023_x86_64_NVIDIA or AL2023_ARM_64_NVIDIA."
  }

  validation {
    condition     = startswith(var.ami_type, "AL2_") || startswith(var.ami_type, "BOTTLEROCKET_") || contains(["AL2023_x86_64_NVIDIA", "AL2023_ARM_64_NVIDIA"], var.ami_type)
    error_message = "ami_type is \"${var.ami_type}\": it must be an image with NVIDIA's driver, AL2023_x86_64_NVIDIA or AL2023_ARM_64_NVIDIA."
  }
}

variable "ami_release_version" {
  description = <<-EOT
    Release of the image, such as `1.33.5-20251120`, for nodes that are the same every time. Null: the newest at creation,
    and no change afterwards until another release or Kubernetes version is named. A change rolls every node.
  EOT
  type        = string
  default     = null

  validation {
    condition     = var.ami_release_version == null ? true : can(regex("^1\\.[0-9]+\\.[0-9]+-[0-9]{8}$", var.ami_release_version))
    error_message = "ami_release_version is ${jsonencode(var.ami_release_version)}: it must be null, or Kubernetes version and date, such as 1.33.5-20251120."
  }
}

variable "kubernetes_version" {
  description = "Kubernetes version of the nodes, such as `1.33`: at most the cluster's. Null takes the cluster's at creation. A change rolls every node."
  type        = string
  default     = null

  validation {
    condition     = var.kubernetes_version == null ? true : can(regex("^1\\.[0-9]+$", var.kubernetes_version))
    error_message = "kubernetes_version is ${jsonencode(var.kubernetes_version)}: it must be null, or major and minor version, such as 1.33."
  }
}

variable "desired_size" {
  description = <<-EOT
    How many nodes the group is created with, from `min_size` to `max_size`; 0 is allowed. Afterwards it belongs to the
    autoscaler (or to people), and a change here does nothing.
  EOT
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = floor(var.desired_size) == var.desired_size && var.desired_size >= 0
    error_message = "desired_size is ${var.desired_size}: it must be a whole number, 0 or more."
  }
}

variable "min_size" {
  description = "The fewest nodes that the autoscaler may leave; 0 lets the group cost nothing at night."
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = floor(var.min_size) == var.min_size && var.min_size >= 0
    error_message = "min_size is ${var.min_size}: it must be a whole number, 0 or more."
  }
}

variable "max_size" {
  description = "The most nodes that the autoscaler may start, 1 to 450: the limit of what an error can cost."
  type        = number
  default     = 2
  nullable    = false

  validation {
    condition     = floor(var.max_size) == var.max_size && var.max_size >= 1 && var.max_size <= 450
    error_message = "max_size is ${var.max_size}: it must be a whole number from 1 to 450 (EKS's limit for one node group)."
  }
}

variable "node_role_label" {
  description = <<-EOT
    Value of the node label `role`, which judge-bootstrap's pods select, and of the tag `role`, which its inventory
    selects. `config terraform` tells the playbooks another value than `ai-gpu` (`vllm_k8s_node_selector`).
  EOT
  type        = string
  default     = "ai-gpu"
  nullable    = false

  validation {
    condition     = can(regex("^[0-9A-Za-z]([0-9A-Za-z._-]{0,61}[0-9A-Za-z])?$", var.node_role_label))
    error_message = "node_role_label is \"${var.node_role_label}\": a label's value has 1 to 63 letters, digits, '.', '_' and '-', with a letter or digit at either end."
  }
}

variable "labels" {
  description = <<-EOT
    Further node labels, besides `role` and `k8s.amazonaws.com/accelerator` (by which the cluster-autoscaler waits for a new
    node's GPU; its value is the GPU's name unless it is set here). Keys and values of at most 63 characters.
  EOT
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = !contains(keys(var.labels), "role")
    error_message = "labels sets role: that label is what node_role_label says, and the inventory finds the nodes by it."
  }

  validation {
    condition = alltrue([for key in keys(var.labels) : (
      length(key) <= 63 && can(regex("^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[0-9A-Za-z]([0-9A-Za-z._-]*[0-9A-Za-z])?$", key))
    )])
    error_message = "labels has the keys ${join(", ", keys(var.labels))}: each must be a Kubernetes label key of at most 63 characters, such as team or example.com/team."
  }

  validation {
    condition = alltrue([for key in keys(var.labels) : (
      startswith(key, "node.kubernetes.io/") || !can(regex("^([a-z0-9.-]+\\.)?(kubernetes\\.io|k8s\\.io|eks\\.amazonaws\\.com)/", key))
    )])
    error_message = "labels has ${join(", ", [for key in keys(var.labels) : key if can(regex("^([a-z0-9.-]+\\.)?(kubernetes\\.io|k8s\\.io|eks\\.amazonaws\\.com)/", key))])}: EKS or kubelet refuses labels under kubernetes.io (but for node.kubernetes.io), k8s.io and eks.amazonaws.com, and no node would join."
  }

  validation {
    condition     = alltrue([for value in values(var.labels) : can(regex("^[0-9A-Za-z]([0-9A-Za-z._-]{0,61}[0-9A-Za-z])?$", value))])
    error_message = "labels has the values ${join(", ", [for key, value in var.labels : "${key}=${jsonencode(value)}" if !can(regex("^[0-9A-Za-z]([0-9A-Za-z._-]{0,61}[0-9A-Za-z])?$", value))])}: each must have 1 to 63 letters, digits, '.', '_' and '-', with a letter or digit at either end."
  }
}

variable "taints" {
  description = <<-EOT
    Taints of the nodes, at most one for a key, which keep pods that need no GPU away. `effect` is `NoSchedule`,
    `PreferNoSchedule` or `NoExecute`; EKS's spelling (`NO_SCHEDULE`) is understood too. The pods must tolerate
    them (`vllm_k8s_tolerations`, which `config terraform` sets to match), or they stay pending.
  EOT
  type = list(object({
    key    = string
    value  = optional(string, "")
    effect = optional(string, "NoSchedule")
  }))
  default  = [{ key = "sku", value = "gpu", effect = "NoSchedule" }]
  nullable = false

  validation {
    condition = alltrue([for taint in var.taints : (
      try(length(taint.key) <= 63, false) && can(regex("^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[0-9A-Za-z]([0-9A-Za-z._-]*[0-9A-Za-z])?$", taint.key))
    )])
    error_message = "taints has the keys ${join(", ", [for taint in var.taints : jsonencode(taint.key)])}: each must be a Kubernetes taint key of at most 63 characters, such as sku or example.com/gpu."
  }

  validation {
    condition     = alltrue([for taint in var.taints : can(regex("^([0-9A-Za-z]([0-9A-Za-z._-]{0,61}[0-9A-Za-z])?)?$", taint.value))])
    error_message = "taints has the values ${join(", ", [for taint in var.taints : "${jsonencode(taint.key)} = ${jsonencode(taint.value)}"])}: each must be empty, or have at most 63 letters, digits, '.', '_' and '-', with a letter or digit at either end."
  }

  validation {
    condition = alltrue([for taint in var.taints : try(contains(
      ["NoSchedule", "PreferNoSchedule", "NoExecute", "NO_SCHEDULE", "PREFER_NO_SCHEDULE", "NO_EXECUTE"], taint.effect
    ), false)])
    error_message = "taints has the effects ${join(", ", [for taint in var.taints : "${jsonencode(taint.key)}: ${jsonencode(taint.effect)}"])}: each must be NoSchedule, PreferNoSchedule or NoExecute."
  }

  validation {
    condition     = length(distinct(var.taints[*].key)) == length(var.taints)
    error_message = "taints has a key twice: ${join(", ", [for taint in var.taints : jsonencode(taint.key)])}. The cluster-autoscaler's tags hold one effect for a key."
  }
}

variable "register_with_startup_taint" {
  description = <<-EOT
    Whether a node joins with the taint `startup_taint_key` (NoSchedule), so that no judge pod starts before its model lies on
    the local disk. The loader, or the playbooks, take it away. The cluster-autoscaler must be told of it
    (`--startup-taint=KEY`), or it starts node after node. With neither the loader nor the playbooks in use, set false.
  EOT
  type        = bool
  default     = true
  nullable    = false
}

variable "startup_taint_key" {
  description = "Key of that taint, which `config terraform` tells the playbooks as `vllm_k8s_node_taint`. Nothing takes another one away: the nodes would stay idle."
  type        = string
  default     = "judge-bootstrap.io/model-not-ready"
  nullable    = false

  validation {
    condition     = length(var.startup_taint_key) <= 316 && can(regex("^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[0-9A-Za-z]([0-9A-Za-z._-]{0,61}[0-9A-Za-z])?$", var.startup_taint_key))
    error_message = "startup_taint_key is \"${var.startup_taint_key}\": it must be a Kubernetes taint key, such as judge-bootstrap.io/model-not-ready."
  }
}

variable "max_unavailable" {
  description = "How many nodes an update of the node group replaces at a time, 1 to 100. More is quicker and leaves fewer judges meanwhile."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = floor(var.max_unavailable) == var.max_unavailable && var.max_unavailable >= 1 && var.max_unavailable <= 100
    error_message = "max_unavailable is ${var.max_unavailable}: it must be a whole number from 1 to 100."
  }
}

variable "max_unavailable_percentage" {
  description = "The same as a share of the nodes in percent, 1 to 100. When it is set, `max_unavailable` counts no more."
  type        = number
  default     = null

  validation {
    condition = var.max_unavailable_percentage == null ? true : (
      floor(var.max_unavailable_percentage) == var.max_unavailable_percentage && var.max_unavailable_percentage >= 1 && var.max_unavailable_percentage <= 100
    )
    error_message = "max_unavailable_percentage is ${jsonencode(var.max_unavailable_percentage)}: it must be null, or a whole number from 1 to 100."
  }
}

variable "imds_hop_limit" {
  description = <<-EOT
    How many network hops the instance metadata service (IMDSv2 only) answers over, 1 to 64. With 1 pods do not reach the
    node's role, which is right for judge-bootstrap's; a pod that needs it wants EKS Pod Identity rather than 2 here.
  EOT
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = floor(var.imds_hop_limit) == var.imds_hop_limit && var.imds_hop_limit >= 1 && var.imds_hop_limit <= 64
    error_message = "imds_hop_limit is ${var.imds_hop_limit}: it must be a whole number from 1 to 64."
  }
}

variable "key_name" {
  description = <<-EOT
    Name of an EC2 key pair whose public key is put on every node, for ec2-user. Null, the default, puts none there: who may
    open a session may also push a key for a minute (docs/terraform.md), and no key of one's own is left to be stolen.
    Another name is another version of the launch template, so the nodes are replaced.
  EOT
  type        = string
  default     = null

  validation {
    condition     = var.key_name == null ? true : can(regex("^\\S(.{0,253}\\S)?$", var.key_name))
    error_message = "key_name is ${jsonencode(var.key_name)}: it must be null, or the name of a key pair in the region, 1 to 255 characters."
  }
}

variable "kms_key_arn" {
  description = <<-EOT
    KMS key of the root volume; null takes the account's default key for EBS. The key's policy must let the role
    AWSServiceRoleForAutoScaling use it and create grants: otherwise every instance ends as soon as it has started.
  EOT
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null ? true : can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn is ${jsonencode(var.kms_key_arn)}: it must be null, or the ARN of a key, such as arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab."
  }
}

variable "detailed_monitoring" {
  description = "Whether EC2 reports an instance's metrics every minute (about 2 USD a month for each) instead of every five."
  type        = bool
  default     = true
  nullable    = false
}

variable "tags" {
  description = <<-EOT
    Further tags of everything that the module makes, instances, volumes and network interfaces included (the provider's
    `default_tags` do not reach those three). `Environment`, `Sandbox`, `role` and `ManagedBy` are the module's own.
  EOT
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = length(setintersection(keys(var.tags), ["Environment", "Sandbox", "role", "ManagedBy"])) == 0
    error_message = "tags sets ${join(", ", setintersection(keys(var.tags), ["Environment", "Sandbox", "role", "ManagedBy"]))}: these tags say what environment, sandbox and node_role_label say, and the inventory finds the nodes by them."
  }

  validation {
    condition     = alltrue([for key, value in var.tags : can(regex("^[[:print:]]{1,128}$", key)) && !can(regex("(?i)^aws:", key)) && try(length(value) <= 256, false)])
    error_message = "tags has ${jsonencode(var.tags)}: a key has 1 to 128 characters and does not begin with aws:, a value has at most 256."
  }

  validation {
    condition     = length(var.tags) <= 40
    error_message = "tags has ${length(var.tags)} tags: AWS allows 50, of which 10 are for the module, EKS and EC2 Auto Scaling."
  }
}

variable "autoscaler_tags" {
  description = <<-EOT
    Whether the group's Auto Scaling group gets the cluster-autoscaler's tags: enabled, owned by the cluster, and the
    node template (labels, taints, GPUs, ephemeral storage) without which it cannot scale up from zero nodes.
  EOT
  type        = bool
  default     = true
  nullable    = false
}

variable "model_commits" {
  description = <<-EOT
    Commits of the model (40 hex digits each) for which the cluster-autoscaler may start the first node: the judge's pods
    want the label of their commit, which no new node has until the loader has brought the model. Name a new commit before
    `models update`, and leave the old one until nothing goes back to it. No node is replaced for it.
  EOT
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for commit in var.model_commits : can(regex("^[0-9a-f]{40}$", commit))])
    error_message = "model_commits is ${jsonencode(var.model_commits)}: each must be a commit of 40 hex digits, as `judge-bootstrap models list` names it."
  }
}

variable "nvme_owner" {
  description = <<-EOT
    Who builds the instance store: `nodeadm` (EKS's own, before kubelet starts; kubelet's and containerd's data lie on it
    too) or `judge` (judge-node's boot unit, at every boot). Nodes that are stopped and started, as in a warm pool,
    come back with blank disks, which only `judge` rebuilds. A change rolls every node.
  EOT
  type        = string
  default     = "nodeadm"
  nullable    = false

  validation {
    condition     = contains(["nodeadm", "judge"], var.nvme_owner)
    error_message = "nvme_owner is \"${var.nvme_owner}\": it must be nodeadm or judge."
  }
}

variable "nvme_mount_path" {
  description = "Absolute path where the model store's disk is mounted on a node; models lie in `hub` below it. A change rolls every node."
  type        = string
  default     = "/mnt/nvme"
  nullable    = false

  validation {
    condition     = can(regex("^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$", var.nvme_mount_path))
    error_message = "nvme_mount_path is \"${var.nvme_mount_path}\": it must be an absolute path below /, such as /mnt/nvme."
  }
}

variable "nvme_strategy" {
  description = <<-EOT
    How several disks are joined: `RAID0` (all the space and speed, lost with any one disk), `RAID10` (half the space,
    survives a disk; at least 4 disks) or `Mount` (no array). A change rolls every node.
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
  description = "Absolute path below which nodeadm mounts what it builds (`localStorage.mountPath`). It must not be `nvme_mount_path`, which becomes a bind mount of it."
  type        = string
  default     = "/mnt/k8s-disks"
  nullable    = false

  validation {
    condition     = can(regex("^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$", var.nvme_nodeadm_path))
    error_message = "nvme_nodeadm_path is \"${var.nvme_nodeadm_path}\": it must be an absolute path below /, such as /mnt/k8s-disks."
  }
}

variable "nvme_wait_seconds" {
  description = "Seconds, 0 to 86400, that each boot waits for a disk to appear before it fails with DISK_NONE. Too short fails a good node, too long delays the failure of one that has none."
  type        = number
  default     = 300
  nullable    = false

  validation {
    condition     = floor(var.nvme_wait_seconds) == var.nvme_wait_seconds && var.nvme_wait_seconds >= 0 && var.nvme_wait_seconds <= 86400
    error_message = "nvme_wait_seconds is ${var.nvme_wait_seconds}: it must be a whole number from 0 to 86400."
  }
}

variable "node_config" {
  description = <<-EOT
    A NodeConfig of your own for nodeadm, as YAML (`apiVersion`, `kind` and `spec`). It is merged with what the module writes and
    checked at plan time. Refused in its `spec`: `cluster`, which is EKS's own, and what other variables set
    (`instance.localStorage`, kubelet's taints). Null for none. A change rolls every node.
  EOT
  type        = string
  default     = null
}

variable "judge_node" {
  description = <<-EOT
    Where nodes fetch judge-node at their first boot: `url` (https:// or s3://) of `judge-node.pyz`, which `judge-node program --out FILE`
    writes, and its `sha256`, which is checked before it runs. Needed with `nvme_owner = "judge"`, unless `judge_node_program` is set.
  EOT
  type = object({
    url    = string
    sha256 = string
  })
  default = null

  validation {
    condition     = var.judge_node == null ? true : can(regex("^(https|s3)://[!-~]+$", var.judge_node.url))
    error_message = "judge_node.url is ${try(jsonencode(var.judge_node.url), "null")}: it must be an https:// or s3:// address."
  }

  validation {
    condition     = var.judge_node == null ? true : can(regex("^[0-9a-f]{64}$", var.judge_node.sha256))
    error_message = "judge_node.sha256 is ${try(jsonencode(var.judge_node.sha256), "null")}: it must be 64 lower-case hex digits, as sha256sum prints them."
  }
}

variable "judge_node_program" {
  description = <<-EOT
    Path of a `judge-node.pyz` on the machine that runs Terraform. It is put into the mirror bucket under its own hash, and
    nodes fetch it from there: needs `mirror.enabled`. Instead of `judge_node`.
  EOT
  type        = string
  default     = null

  validation {
    condition     = var.judge_node_program == null ? true : try(fileexists(var.judge_node_program), false)
    error_message = "judge_node_program is ${jsonencode(var.judge_node_program)}: there is no such file. `judge-node program --out FILE` writes it."
  }
}

variable "timeouts" {
  description = "How long Terraform waits for EKS to create, update and delete the node group, such as `60m`. An update of many nodes takes long; null is the provider's 60 minutes."
  type = object({
    create = optional(string)
    update = optional(string)
    delete = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for value in values(var.timeouts) : value == null ? true : can(regex("^([0-9]+(h|m|s))+$", value))])
    error_message = "timeouts has ${join(", ", [for key, value in var.timeouts : "${key} = \"${value}\"" if value != null])}: each must be a duration such as 60m or 1h30m."
  }
}
