# Read, not listed: a table of instance types in here would be out of date with the next family.
data "aws_ec2_instance_type" "this" {
  for_each = local.enabled ? toset(var.instance_types) : toset([])

  instance_type = each.key

  lifecycle {
    postcondition {
      condition     = self.instance_storage_supported
      error_message = "instance_types has ${each.key}, which has no instance store: there would be no local disk to hold a model. Take a type with one, such as g4dn.xlarge, g5.xlarge or g6.xlarge."
    }

    postcondition {
      condition     = anytrue([for gpu in self.gpus : upper(gpu.manufacturer) == "NVIDIA"])
      error_message = "instance_types has ${each.key}, which has no NVIDIA GPU: vLLM would find no device. Take a type with one, such as g4dn.xlarge, g5.xlarge or g6.xlarge."
    }

    postcondition {
      condition     = contains(self.supported_architectures, local.architecture)
      error_message = "instance_types has ${each.key}, which is ${join(" or ", self.supported_architectures)}, and ami_type ${var.ami_type} is ${local.architecture}: the image would not start. Change one of them."
    }

    postcondition {
      condition     = contains(self.supported_usages_classes, local.usage_class)
      error_message = "instance_types has ${each.key}, which EC2 does not offer as ${var.capacity_type} (only ${join(", ", self.supported_usages_classes)})."
    }

    postcondition {
      condition     = var.nvme_strategy != "RAID10" || sum(concat([0], [for disk in self.instance_disks : disk.count])) >= 4
      error_message = "instance_types has ${each.key} with ${sum(concat([0], [for disk in self.instance_disks : disk.count]))} local disk(s), and nvme_strategy RAID10 needs at least 4. Use RAID0, or a larger type."
    }
  }
}

locals {
  architecture = var.ami_type == "AL2023_ARM_64_NVIDIA" ? "arm64" : "x86_64"
  usage_class  = { ON_DEMAND = "on-demand", SPOT = "spot" }[var.capacity_type]

  # The least that any of the types has: what the autoscaler may count on whichever it gets.
  gpu_counts  = { for name, type in data.aws_ec2_instance_type.this : name => sum(concat([0], [for gpu in type.gpus : gpu.count])) }
  gpu_names   = distinct(flatten([for type in data.aws_ec2_instance_type.this : [for gpu in type.gpus : lower(gpu.name)]]))
  gpus        = min(concat([for count in values(local.gpu_counts) : count], [1024])...)
  storage_gb  = min(concat([for type in data.aws_ec2_instance_type.this : type.total_instance_storage], [1048576])...)
  node_labels = merge(local.accelerator_label, var.labels, { role = var.node_role_label })

  # A new node is Ready before its device plugin is. By this label the cluster-autoscaler knows that a GPU is still to come,
  # and does not start a second node meanwhile; any value will do.
  accelerator_label = {
    "k8s.amazonaws.com/accelerator" = length(local.gpu_names) == 1 ? "nvidia-${replace(local.gpu_names[0], "/[^a-z0-9]+/", "-")}" : "nvidia"
  }

  # By their names in Kubernetes; var.taints takes either spelling.
  eks_effects = { NoSchedule = "NO_SCHEDULE", PreferNoSchedule = "PREFER_NO_SCHEDULE", NoExecute = "NO_EXECUTE" }

  taints = [for taint in var.taints : merge(taint, {
    effect = one([for name, eks_name in local.eks_effects : name if contains([name, eks_name], taint.effect)])
  })]

  # EKS puts a node group's taints on a node some time after it has joined, when pods may run there already; so kubelet
  # registers with all of them. The startup taint is kubelet's alone: EKS would put it back after it was taken away.
  registered_taints = concat(
    local.taints,
    var.register_with_startup_taint && !local.startup_taint_twice ? [{ key = var.startup_taint_key, value = "", effect = "NoSchedule" }] : [],
  )
  startup_taint_twice = var.register_with_startup_taint && contains(var.taints[*].key, var.startup_taint_key)
}

resource "aws_eks_node_group" "ai" {
  count = local.enabled ? 1 : 0

  cluster_name    = var.cluster_name
  node_group_name = local.name
  node_role_arn   = local.node_role_arn
  subnet_ids      = var.subnet_ids
  capacity_type   = var.capacity_type
  instance_types  = var.instance_types
  ami_type        = var.ami_type
  release_version = var.ami_release_version
  version         = var.kubernetes_version
  labels          = local.node_labels
  tags            = local.tags

  scaling_config {
    desired_size = var.desired_size
    min_size     = var.min_size
    max_size     = var.max_size
  }

  update_config {
    max_unavailable            = var.max_unavailable_percentage == null ? var.max_unavailable : null
    max_unavailable_percentage = var.max_unavailable_percentage
  }

  launch_template {
    id      = aws_launch_template.ai[0].id
    version = aws_launch_template.ai[0].latest_version
  }

  dynamic "taint" {
    for_each = local.taints

    content {
      key    = taint.value.key
      value  = taint.value.value
      effect = local.eks_effects[taint.value.effect]
    }
  }

  timeouts {
    create = var.timeouts.create
    update = var.timeouts.update
    delete = var.timeouts.delete
  }

  lifecycle {
    # The autoscaler's, after the first day: an apply must not send away nodes that are judging.
    ignore_changes = [scaling_config[0].desired_size]

    precondition {
      condition     = length(local.name) <= 63
      error_message = "The node group's name ${local.name} has ${length(local.name)} characters, and EKS allows 63: shorten ${var.sandbox == null ? "environment" : "sandbox or environment"} by ${length(local.name) - 63}."
    }

    precondition {
      condition     = var.min_size <= var.max_size
      error_message = "min_size is ${var.min_size} and max_size is ${var.max_size}: min_size must not be above max_size."
    }

    precondition {
      condition     = var.min_size <= var.desired_size && var.desired_size <= var.max_size
      error_message = "desired_size is ${var.desired_size}: it must lie between min_size (${var.min_size}) and max_size (${var.max_size})."
    }

    precondition {
      condition     = var.ami_release_version == null || var.kubernetes_version == null ? true : startswith(var.ami_release_version, "${var.kubernetes_version}.")
      error_message = "ami_release_version is ${jsonencode(var.ami_release_version)}, an image of another Kubernetes than kubernetes_version ${jsonencode(var.kubernetes_version)}."
    }
  }

  # Without its policies a role takes no node into the cluster, and none out of it either; and a first boot that cannot
  # reach the mirror is a node that never joins.
  depends_on = [aws_iam_role_policy_attachment.node, aws_iam_role_policy.node, aws_vpc_endpoint.mirror]
}

# The cluster-autoscaler plans with one node as if all of the group were alike.
check "instance_types_have_equally_many_gpus" {
  assert {
    condition     = length(distinct(values(local.gpu_counts))) <= 1
    error_message = "instance_types have different numbers of GPUs (${join(", ", [for name, count in local.gpu_counts : "${name}: ${count}"])}): the cluster-autoscaler takes ${local.gpus} for every node. Pods that ask for more stay pending, and nodes with more stay half empty."
  }
}

locals {
  node_template = "k8s.io/cluster-autoscaler/node-template"

  # What kubelet will call allocatable: the filesystem less 1 % of its own, 10 % that kubelet keeps free, and the 1 GiB that nodeadm
  # reserves. A figure too high lets the autoscaler start nodes on which the pod then does not fit. Only an array carries
  # kubelet's data; with Mount, and with judge-node's, the root volume does.
  kubelet_disk = var.nvme_owner == "nodeadm" && var.nvme_strategy != "Mount" ? {
    size = var.nvme_strategy == "RAID10" ? local.storage_gb / 2 : local.storage_gb
    unit = "G"
  } : { size = var.disk_size_gib, unit = "Gi" }
  ephemeral_storage = "${floor(local.kubelet_disk.size * 0.89 - 1)}${local.kubelet_disk.unit}"

  # By keys that are known before anything is made: the cluster's name may not be.
  autoscaler_tags = merge(
    {
      enabled             = { key = "k8s.io/cluster-autoscaler/enabled", value = "true" }
      owned               = { key = "k8s.io/cluster-autoscaler/${var.cluster_name}", value = "owned" }
      gpu                 = { key = "${local.node_template}/resources/nvidia.com/gpu", value = tostring(local.gpus) }
      "ephemeral-storage" = { key = "${local.node_template}/resources/ephemeral-storage", value = local.ephemeral_storage }
    },
    { for key, value in local.node_labels : "label/${key}" => { key = "${local.node_template}/label/${key}", value = value } },
    # What the loader puts on a node once the model is there; the startup taint keeps pods away until then.
    { for commit in var.model_commits : "model/${commit}" => {
      key   = "${local.node_template}/label/judge-bootstrap.io/model-${commit}"
      value = "ready"
    } },
    { for taint in local.taints : "taint/${taint.key}" => {
      key   = "${local.node_template}/taint/${taint.key}"
      value = "${taint.value}:${taint.effect}"
    } },
  )
}

resource "aws_autoscaling_group_tag" "ai" {
  for_each = local.enabled && var.autoscaler_tags ? local.autoscaler_tags : {}

  autoscaling_group_name = aws_eks_node_group.ai[0].resources[0].autoscaling_groups[0].name

  tag {
    key                 = each.value.key
    value               = each.value.value
    propagate_at_launch = false
  }
}
