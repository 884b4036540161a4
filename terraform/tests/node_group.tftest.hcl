mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment  = "prod"
  cluster_name = "judge-prod"
  subnet_ids   = ["subnet-0aaaaaaaaaaaaaaaa", "subnet-0bbbbbbbbbbbbbbbb"]
}

run "by_default_one_on_demand_g5" {
  command = plan

  assert {
    condition     = aws_eks_node_group.ai[0].node_group_name == "judge-prod-ai" && aws_eks_node_group.ai[0].cluster_name == "judge-prod"
    error_message = "the node group is not named after its environment"
  }

  assert {
    condition     = aws_eks_node_group.ai[0].capacity_type == "ON_DEMAND" && aws_eks_node_group.ai[0].instance_types == tolist(["g5.xlarge"])
    error_message = "the default is not one type on demand"
  }

  assert {
    condition     = aws_eks_node_group.ai[0].ami_type == "AL2023_x86_64_NVIDIA"
    error_message = "the default image is not AL2023 with NVIDIA's driver"
  }

  assert {
    condition     = aws_eks_node_group.ai[0].subnet_ids == toset(var.subnet_ids)
    error_message = "the nodes do not start in the subnets that were given"
  }

  assert {
    condition = (
      aws_eks_node_group.ai[0].scaling_config[0].desired_size == 1
      && aws_eks_node_group.ai[0].scaling_config[0].min_size == 0
      && aws_eks_node_group.ai[0].scaling_config[0].max_size == 2
    )
    error_message = "the sizes are not the defaults"
  }

  assert {
    condition     = aws_eks_node_group.ai[0].update_config[0].max_unavailable == 1
    error_message = "an update does not replace one node at a time"
  }

  assert {
    condition     = aws_eks_node_group.ai[0].labels == tomap({ role = "ai-gpu", "k8s.amazonaws.com/accelerator" = "nvidia-a10g" })
    error_message = "the labels are not the role and the GPU: ${jsonencode(aws_eks_node_group.ai[0].labels)}"
  }

  assert {
    condition     = [for taint in aws_eks_node_group.ai[0].taint : "${taint.key}=${taint.value}:${taint.effect}"] == ["sku=gpu:NO_SCHEDULE"]
    error_message = "the group's taints are not sku=gpu alone"
  }

  assert {
    condition     = aws_eks_node_group.ai[0].tags == tomap({ Environment = "prod", ManagedBy = "terraform", role = "ai-gpu" })
    error_message = "the group's tags are not those that the inventory filters on"
  }
}

run "disabled_makes_nothing" {
  command = plan

  variables {
    enabled = false
  }

  assert {
    condition     = length(aws_eks_node_group.ai) == 0 && length(aws_launch_template.ai) == 0 && length(aws_autoscaling_group_tag.ai) == 0
    error_message = "something of the node group is left"
  }

  assert {
    condition     = length(data.aws_ec2_instance_type.this) == 0 && length(data.aws_eks_cluster.this) == 0
    error_message = "AWS is asked for what is not needed"
  }

  assert {
    condition = alltrue([for value in [
      output.judge_bootstrap, output.node_group_name, output.node_group_arn, output.autoscaling_group_names,
      output.launch_template_id, output.launch_template_version, output.inventory_filters, output.user_data_bytes,
    ] : value == null])
    error_message = "an output is not null"
  }
}

run "a_sandbox_is_part_of_name_and_tags" {
  command = plan

  variables {
    sandbox = "anna"
  }

  assert {
    condition     = aws_eks_node_group.ai[0].node_group_name == "judge-prod-anna-ai" && aws_launch_template.ai[0].name == "judge-prod-anna-ai"
    error_message = "two sandboxes would meet"
  }

  assert {
    condition     = aws_eks_node_group.ai[0].tags["Sandbox"] == "anna" && output.inventory_filters["tag:Sandbox"] == "anna" && aws_eks_node_group.ai[0].tags["Environment"] == "prod-anna" && output.inventory_filters["tag:Environment"] == "prod-anna"
    error_message = "the inventory of the environment would find its sandbox, or the other way round"
  }
}

run "spot_of_several_types" {
  command = plan

  variables {
    capacity_type  = "SPOT"
    instance_types = ["g5.xlarge", "g5.2xlarge", "g6.xlarge"]
  }

  assert {
    condition     = aws_eks_node_group.ai[0].capacity_type == "SPOT"
    error_message = "the capacity is not spot"
  }

  assert {
    condition     = aws_eks_node_group.ai[0].instance_types == tolist(["g5.xlarge", "g5.2xlarge", "g6.xlarge"])
    error_message = "the types are not in the order that was asked for"
  }
}

run "arm_image_with_an_arm_type" {
  command = plan

  variables {
    ami_type       = "AL2023_ARM_64_NVIDIA"
    instance_types = ["p6e-gb200.36xlarge"]
  }

  override_data {
    target = data.aws_ec2_instance_type.this
    values = {
      instance_storage_supported = true
      total_instance_storage     = 22500
      instance_disks             = [{ count = 3, size = 7500, type = "ssd" }]
      gpus                       = [{ count = 4, manufacturer = "NVIDIA", memory_size = 189440, name = "GB200" }]
      supported_architectures    = ["arm64"]
      supported_usages_classes   = ["on-demand", "spot"]
    }
  }

  assert {
    condition     = aws_eks_node_group.ai[0].ami_type == "AL2023_ARM_64_NVIDIA"
    error_message = "the ARM image is not used"
  }

  assert {
    condition     = aws_autoscaling_group_tag.ai["gpu"].tag[0].value == "4"
    error_message = "the autoscaler is not told of four GPUs"
  }
}

run "zero_nodes" {
  command = plan

  variables {
    desired_size = 0
    min_size     = 0
    max_size     = 1
  }

  assert {
    condition     = aws_eks_node_group.ai[0].scaling_config[0].desired_size == 0
    error_message = "the group does not begin with no node"
  }
}

run "versions_are_pinned" {
  command = plan

  variables {
    kubernetes_version  = "1.33"
    ami_release_version = "1.33.5-20251120"
  }

  assert {
    condition     = aws_eks_node_group.ai[0].version == "1.33" && aws_eks_node_group.ai[0].release_version == "1.33.5-20251120"
    error_message = "the image is not the one that was named"
  }
}

run "updates_by_percentage" {
  command = plan

  variables {
    max_unavailable            = 3
    max_unavailable_percentage = 25
  }

  assert {
    condition     = aws_eks_node_group.ai[0].update_config[0].max_unavailable_percentage == 25 && aws_eks_node_group.ai[0].update_config[0].max_unavailable == null
    error_message = "the percentage does not count alone"
  }
}

run "labels_taints_and_tags_of_ones_own" {
  command = plan

  variables {
    node_role_label = "judge"
    labels          = { team = "eval", "k8s.amazonaws.com/accelerator" = "nvidia-tesla-a10" }
    tags            = { CostCenter = "42" }
    taints = [
      { key = "nvidia.com/gpu", effect = "NO_EXECUTE" },
      { key = "sku", value = "gpu", effect = "PreferNoSchedule" },
    ]
  }

  assert {
    condition     = aws_eks_node_group.ai[0].labels == tomap({ role = "judge", team = "eval", "k8s.amazonaws.com/accelerator" = "nvidia-tesla-a10" })
    error_message = "the labels are not those asked for"
  }

  assert {
    condition = toset([for taint in aws_eks_node_group.ai[0].taint : "${taint.key}=${taint.value}:${taint.effect}"]) == toset([
      "nvidia.com/gpu=:NO_EXECUTE", "sku=gpu:PREFER_NO_SCHEDULE",
    ])
    error_message = "the taints are not in EKS's spelling: ${jsonencode(aws_eks_node_group.ai[0].taint)}"
  }

  assert {
    condition     = aws_eks_node_group.ai[0].tags["CostCenter"] == "42" && aws_eks_node_group.ai[0].tags["role"] == "judge"
    error_message = "the tags are not those asked for"
  }

  assert {
    condition     = aws_autoscaling_group_tag.ai["taint/nvidia.com/gpu"].tag[0].value == ":NoExecute" && aws_autoscaling_group_tag.ai["label/team"].tag[0].value == "eval"
    error_message = "the autoscaler's node template lacks a label or a taint"
  }

  assert {
    condition = output.judge_bootstrap.variables.vllm_k8s_tolerations == [
      { key = "nvidia.com/gpu", operator = "Equal", value = "", effect = "NoExecute" },
      { key = "sku", operator = "Equal", value = "gpu", effect = "PreferNoSchedule" },
    ]
    error_message = "the pods would not tolerate the nodes' taints: ${jsonencode(output.judge_bootstrap.variables.vllm_k8s_tolerations)}"
  }

  assert {
    condition     = output.judge_bootstrap.variables.vllm_k8s_node_selector == { role = "judge" } && output.inventory_filters["tag:role"] == "judge"
    error_message = "the pods or the inventory would look for nodes of another role"
  }
}

run "no_taints" {
  command = plan

  variables {
    taints                      = []
    register_with_startup_taint = false
  }

  assert {
    condition     = length(aws_eks_node_group.ai[0].taint) == 0 && length(local.registered_taints) == 0
    error_message = "a taint is left"
  }
}

run "kubelet_registers_with_every_taint" {
  command = plan

  assert {
    condition = local.registered_taints == [
      { key = "sku", value = "gpu", effect = "NoSchedule" },
      { key = "judge-bootstrap.io/model-not-ready", value = "", effect = "NoSchedule" },
    ]
    error_message = "kubelet does not register with the group's taints and the startup taint: ${jsonencode(local.registered_taints)}"
  }

  assert {
    condition     = !contains(keys(local.autoscaler_tags), "taint/judge-bootstrap.io/model-not-ready")
    error_message = "the autoscaler would think that a new node keeps its startup taint, and start none"
  }

  assert {
    condition     = output.judge_bootstrap.variables.vllm_k8s_node_taint == "judge-bootstrap.io/model-not-ready"
    error_message = "the playbooks would take another taint away"
  }
}

run "a_startup_taint_and_timeouts_of_ones_own" {
  command = plan

  variables {
    startup_taint_key = "example.com/no-model"
    timeouts          = { create = "20m", update = "3h" }
  }

  assert {
    condition     = local.registered_taints[*].key == ["sku", "example.com/no-model"] && output.judge_bootstrap.variables.vllm_k8s_node_taint == "example.com/no-model"
    error_message = "kubelet registers with another taint than the playbooks take away: ${jsonencode(local.registered_taints)}"
  }

  assert {
    condition     = !contains(keys(local.autoscaler_tags), "taint/example.com/no-model")
    error_message = "the autoscaler counts on the startup taint for ever"
  }

  assert {
    condition     = jsonencode(aws_eks_node_group.ai[0].timeouts) == jsonencode({ create = "20m", delete = null, update = "3h" })
    error_message = "Terraform waits for another time: ${jsonencode(aws_eks_node_group.ai[0].timeouts)}"
  }
}

run "startup_taint_can_be_left_out" {
  command = plan

  variables {
    register_with_startup_taint = false
  }

  assert {
    condition     = [for taint in local.registered_taints : taint.key] == ["sku"]
    error_message = "the startup taint is still there"
  }

  assert {
    condition     = !contains(keys(output.judge_bootstrap.variables), "vllm_k8s_node_taint")
    error_message = "the output names a startup taint that no node has"
  }
}

run "autoscaler_finds_the_group_and_knows_its_nodes" {
  command = plan

  assert {
    condition = { for tag in aws_autoscaling_group_tag.ai : tag.tag[0].key => tag.tag[0].value } == {
      "k8s.io/cluster-autoscaler/enabled"                                           = "true"
      "k8s.io/cluster-autoscaler/judge-prod"                                        = "owned"
      "k8s.io/cluster-autoscaler/node-template/label/role"                          = "ai-gpu"
      "k8s.io/cluster-autoscaler/node-template/label/k8s.amazonaws.com/accelerator" = "nvidia-a10g"
      "k8s.io/cluster-autoscaler/node-template/taint/sku"                           = "gpu:NoSchedule"
      "k8s.io/cluster-autoscaler/node-template/resources/nvidia.com/gpu"            = "1"
      "k8s.io/cluster-autoscaler/node-template/resources/ephemeral-storage"         = "221G"
    }
    error_message = "the Auto Scaling group's tags are not the cluster-autoscaler's: ${jsonencode([for tag in aws_autoscaling_group_tag.ai : tag.tag[0]])}"
  }
}

run "autoscaler_starts_the_first_node_for_a_commit" {
  command = plan

  variables {
    model_commits = ["b25037543e9394b818fdfca67ab2a00ecc7dd641"]
  }

  assert {
    condition = aws_autoscaling_group_tag.ai["model/b25037543e9394b818fdfca67ab2a00ecc7dd641"].tag[0] == {
      key                 = "k8s.io/cluster-autoscaler/node-template/label/judge-bootstrap.io/model-b25037543e9394b818fdfca67ab2a00ecc7dd641"
      value               = "ready"
      propagate_at_launch = false
    }
    error_message = "the autoscaler does not know the label that the judge's pods want"
  }

  assert {
    condition     = !contains(keys(aws_eks_node_group.ai[0].labels), "judge-bootstrap.io/model-b25037543e9394b818fdfca67ab2a00ecc7dd641")
    error_message = "nodes say that they have the model before they have it"
  }
}

run "autoscaler_tags_can_be_left_out" {
  command = plan

  variables {
    autoscaler_tags = false
  }

  assert {
    condition     = length(aws_autoscaling_group_tag.ai) == 0
    error_message = "the Auto Scaling group is tagged"
  }
}

run "ephemeral_storage_is_the_root_volume_where_judge_node_owns_the_disks" {
  command = plan

  variables {
    nvme_owner    = "judge"
    disk_size_gib = 200
    judge_node    = { url = "https://example.com/judge-node.pyz", sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" }
  }

  assert {
    condition     = aws_autoscaling_group_tag.ai["ephemeral-storage"].tag[0].value == "177Gi"
    error_message = "the autoscaler counts on a disk that holds models: ${aws_autoscaling_group_tag.ai["ephemeral-storage"].tag[0].value}"
  }
}

run "ephemeral_storage_is_the_root_volume_without_an_array" {
  command = plan

  variables {
    nvme_strategy = "Mount"
  }

  assert {
    condition     = aws_autoscaling_group_tag.ai["ephemeral-storage"].tag[0].value == "88Gi"
    error_message = "the autoscaler counts on disks that nodeadm only mounts: ${aws_autoscaling_group_tag.ai["ephemeral-storage"].tag[0].value}"
  }
}

run "ephemeral_storage_is_half_of_the_disks_with_raid10" {
  command = plan

  variables {
    nvme_strategy = "RAID10"
  }

  override_data {
    target = data.aws_ec2_instance_type.this
    values = {
      instance_storage_supported = true
      total_instance_storage     = 3800
      instance_disks             = [{ count = 4, size = 950, type = "ssd" }]
      gpus                       = [{ count = 1, manufacturer = "NVIDIA", memory_size = 24576, name = "A10G" }]
      supported_architectures    = ["x86_64"]
      supported_usages_classes   = ["on-demand", "spot"]
    }
  }

  assert {
    condition     = aws_autoscaling_group_tag.ai["ephemeral-storage"].tag[0].value == "1690G"
    error_message = "the autoscaler counts the mirror too: ${aws_autoscaling_group_tag.ai["ephemeral-storage"].tag[0].value}"
  }
}

run "different_gpus_get_a_common_label_and_the_least_storage" {
  command = plan

  variables {
    instance_types = ["g5.xlarge", "g6.8xlarge"]
  }

  override_data {
    target = data.aws_ec2_instance_type.this["g6.8xlarge"]
    values = {
      instance_storage_supported = true
      total_instance_storage     = 900
      instance_disks             = [{ count = 2, size = 450, type = "ssd" }]
      gpus                       = [{ count = 1, manufacturer = "NVIDIA", memory_size = 22888, name = "L4" }]
      supported_architectures    = ["x86_64"]
      supported_usages_classes   = ["on-demand", "spot"]
    }
  }

  assert {
    condition     = aws_eks_node_group.ai[0].labels["k8s.amazonaws.com/accelerator"] == "nvidia"
    error_message = "the label names a GPU that some nodes do not have"
  }

  assert {
    condition     = aws_autoscaling_group_tag.ai["ephemeral-storage"].tag[0].value == "221G"
    error_message = "the autoscaler counts on the larger disk"
  }
}

run "different_numbers_of_gpus_are_warned_of" {
  command = plan

  variables {
    instance_types = ["g5.xlarge", "g5.12xlarge"]
  }

  override_data {
    target = data.aws_ec2_instance_type.this["g5.12xlarge"]
    values = {
      instance_storage_supported = true
      total_instance_storage     = 250
      instance_disks             = [{ count = 1, size = 250, type = "ssd" }]
      gpus                       = [{ count = 4, manufacturer = "NVIDIA", memory_size = 24576, name = "A10G" }]
      supported_architectures    = ["x86_64"]
      supported_usages_classes   = ["on-demand", "spot"]
    }
  }

  expect_failures = [check.instance_types_have_equally_many_gpus]
}

run "inventory_finds_exactly_these_nodes" {
  command = plan

  assert {
    condition = output.inventory_filters == {
      "instance-state-name"  = "running"
      "tag:Environment"      = "prod"
      "tag:eks:cluster-name" = "judge-prod"
      "tag:role"             = "ai-gpu"
    }
    error_message = "the inventory's filters are others: ${jsonencode(output.inventory_filters)}"
  }
}

# Applied, on mocks: ids are only known afterwards.
run "output_for_the_cli" {
  command = apply

  variables {
    node_role_arn          = "arn:aws:iam::111122223333:role/judge-nodes"
    create_operator_policy = false
  }

  override_resource {
    target = aws_launch_template.ai
    values = { id = "lt-0aaaaaaaaaaaaaaaa", latest_version = 3 }
  }

  assert {
    condition     = output.judge_bootstrap.schema == 1 && output.judge_bootstrap.region == "us-east-1" && output.judge_bootstrap.environment == "prod" && output.judge_bootstrap.cluster_name == "judge-prod"
    error_message = "the output does not say where the nodes are"
  }

  assert {
    condition = output.judge_bootstrap.node_group == {
      name                    = "judge-prod-ai"
      launch_template_id      = "lt-0aaaaaaaaaaaaaaaa"
      launch_template_version = 3
      autoscaling_group_names = ["eks-judge-prod-ai-1"]
    }
    error_message = "the output does not name the node group: ${jsonencode(output.judge_bootstrap.node_group)}"
  }

  assert {
    condition     = output.judge_bootstrap.appconfig == null
    error_message = "the output names an AppConfig that there is not"
  }

  assert {
    condition = jsonencode(output.judge_bootstrap.variables) == jsonencode({
      model_cache_dir        = "/mnt/nvme/hub"
      nvme_fstype            = "xfs"
      nvme_mount_path        = "/mnt/nvme"
      nvme_nodeadm_path      = "/mnt/k8s-disks"
      nvme_owner             = "nodeadm"
      nvme_strategy          = "RAID0"
      nvme_wait_seconds      = 300
      vllm_k8s_node_selector = { role = "ai-gpu" }
      vllm_k8s_node_taint    = "judge-bootstrap.io/model-not-ready"
      vllm_k8s_tolerations   = [{ effect = "NoSchedule", key = "sku", operator = "Equal", value = "gpu" }]
    })
    error_message = "the playbooks' variables are others: ${jsonencode(output.judge_bootstrap.variables)}"
  }

  assert {
    condition     = output.autoscaling_group_names == ["eks-judge-prod-ai-1"] && output.launch_template_version == 3
    error_message = "the single outputs say something else"
  }
}
