# Every value that must not get as far as AWS. What each message says is asserted by tests/terraform, which reads it.
# Planned in a folder with nothing but the variables: no provider is started for that, so a run takes a moment.

variables {
  environment  = "prod"
  cluster_name = "judge-prod"
  subnet_ids   = ["subnet-0aaaaaaaaaaaaaaaa"]
}

run "environment_in_upper_case" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    environment = "Prod"
  }

  expect_failures = [var.environment]
}

run "environment_too_long" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    environment = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"
  }

  expect_failures = [var.environment]
}

run "sandbox_that_ends_in_a_hyphen" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    sandbox = "anna-"
  }

  expect_failures = [var.sandbox]
}

run "sandbox_that_is_empty" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    sandbox = ""
  }

  expect_failures = [var.sandbox]
}

run "cluster_by_its_arn" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    cluster_name = "arn:aws:eks:us-east-1:111122223333:cluster/judge"
  }

  expect_failures = [var.cluster_name]
}

run "no_subnets" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    subnet_ids = []
  }

  expect_failures = [var.subnet_ids]
}

run "a_subnet_that_is_a_vpc" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    subnet_ids = ["subnet-0aaaaaaaaaaaaaaaa", "vpc-1"]
  }

  expect_failures = [var.subnet_ids]
}

run "a_security_group_by_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    security_group_ids = ["nodes"]
  }

  expect_failures = [var.security_group_ids]
}

run "six_security_groups" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    security_group_ids = ["sg-0", "sg-1", "sg-2", "sg-3", "sg-4", "sg-5"]
  }

  expect_failures = [var.security_group_ids]
}

run "capacity_type_in_lower_case" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    capacity_type = "spot"
  }

  expect_failures = [var.capacity_type]
}

run "no_instance_types" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    instance_types = []
  }

  expect_failures = [var.instance_types]
}

run "an_instance_family" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    instance_types = ["g5.xlarge", "g5"]
  }

  expect_failures = [var.instance_types]
}

run "an_instance_type_twice" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    instance_types = ["g5.xlarge", "g5.xlarge"]
  }

  expect_failures = [var.instance_types]
}

run "disk_smaller_than_the_image" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    disk_size_gib = 19
  }

  expect_failures = [var.disk_size_gib]
}

run "half_a_gibibyte" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    disk_size_gib = 20.5
  }

  expect_failures = [var.disk_size_gib]
}

run "amazon_linux_2" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    ami_type = "AL2_x86_64_GPU"
  }

  expect_failures = [var.ami_type]
}

run "bottlerocket" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    ami_type = "BOTTLEROCKET_x86_64_NVIDIA"
  }

  expect_failures = [var.ami_type]
}

run "an_image_without_a_driver" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    ami_type = "AL2023_x86_64_STANDARD"
  }

  expect_failures = [var.ami_type]
}

run "image_release_by_ami_id" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    ami_release_version = "ami-0abc"
  }

  expect_failures = [var.ami_release_version]
}

run "kubernetes_version_with_a_v" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    kubernetes_version = "v1.33"
  }

  expect_failures = [var.kubernetes_version]
}

run "desired_size_below_zero" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    desired_size = -1
  }

  expect_failures = [var.desired_size]
}

run "min_size_of_a_half" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    min_size = 0.5
  }

  expect_failures = [var.min_size]
}

run "max_size_of_zero" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    max_size = 0
  }

  expect_failures = [var.max_size]
}

run "node_role_label_with_a_space" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    node_role_label = "ai gpu"
  }

  expect_failures = [var.node_role_label]
}

run "label_role_set_twice" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    labels = { role = "x" }
  }

  expect_failures = [var.labels]
}

run "label_with_a_bad_key" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    labels = { "te am" = "x" }
  }

  expect_failures = [var.labels]
}

run "label_that_kubelet_refuses" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    labels = { "node-role.kubernetes.io/gpu" = "x" }
  }

  expect_failures = [var.labels]
}

run "label_with_an_empty_value" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    labels = { team = "" }
  }

  expect_failures = [var.labels]
}

run "taint_with_a_bad_key" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    taints = [{ key = "s ku" }]
  }

  expect_failures = [var.taints]
}

run "taint_without_a_key" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    taints = [{ key = null }]
  }

  expect_failures = [var.taints]
}

run "taint_with_a_bad_value" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    taints = [{ key = "sku", value = "g pu" }]
  }

  expect_failures = [var.taints]
}

run "taint_with_another_effect" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    taints = [{ key = "sku", value = "gpu", effect = "NoScheduling" }]
  }

  expect_failures = [var.taints]
}

run "a_taint_key_twice" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    taints = [{ key = "sku", effect = "NoSchedule" }, { key = "sku", effect = "NoExecute" }]
  }

  expect_failures = [var.taints]
}

run "startup_taint_with_a_value" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    startup_taint_key = "model=not-ready"
  }

  expect_failures = [var.startup_taint_key]
}

run "max_unavailable_of_zero" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    max_unavailable = 0
  }

  expect_failures = [var.max_unavailable]
}

run "max_unavailable_percentage_over_100" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    max_unavailable_percentage = 101
  }

  expect_failures = [var.max_unavailable_percentage]
}

run "hop_limit_of_zero" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    imds_hop_limit = 0
  }

  expect_failures = [var.imds_hop_limit]
}

run "kms_key_by_alias" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    kms_key_arn = "alias/ebs"
  }

  expect_failures = [var.kms_key_arn]
}

run "tags_of_the_module_s_own" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    tags = { Environment = "x", role = "y" }
  }

  expect_failures = [var.tags]
}

run "tags_that_aws_keeps_for_itself" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    tags = { "aws:x" = "y" }
  }

  expect_failures = [var.tags]
}

run "too_many_tags" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    tags = { t0 = "x", t1 = "x", t2 = "x", t3 = "x", t4 = "x", t5 = "x", t6 = "x", t7 = "x", t8 = "x", t9 = "x", t10 = "x", t11 = "x", t12 = "x", t13 = "x", t14 = "x", t15 = "x", t16 = "x", t17 = "x", t18 = "x", t19 = "x", t20 = "x", t21 = "x", t22 = "x", t23 = "x", t24 = "x", t25 = "x", t26 = "x", t27 = "x", t28 = "x", t29 = "x", t30 = "x", t31 = "x", t32 = "x", t33 = "x", t34 = "x", t35 = "x", t36 = "x", t37 = "x", t38 = "x", t39 = "x", t40 = "x" }
  }

  expect_failures = [var.tags]
}

run "nvme_owner_auto" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    nvme_owner = "auto"
  }

  expect_failures = [var.nvme_owner]
}

run "nvme_mount_path_of_the_root" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    nvme_mount_path = "/"
  }

  expect_failures = [var.nvme_mount_path]
}

run "nvme_strategy_in_lower_case" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    nvme_strategy = "raid0"
  }

  expect_failures = [var.nvme_strategy]
}

run "nvme_fstype_btrfs" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    nvme_fstype = "btrfs"
  }

  expect_failures = [var.nvme_fstype]
}

run "nvme_nodeadm_path_that_is_relative" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    nvme_nodeadm_path = "mnt/disks"
  }

  expect_failures = [var.nvme_nodeadm_path]
}

run "nvme_wait_of_two_days" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    nvme_wait_seconds = 172800
  }

  expect_failures = [var.nvme_wait_seconds]
}

run "judge_node_over_plain_http" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    judge_node = { url = "http://example.com/judge-node.pyz", sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" }
  }

  expect_failures = [var.judge_node]
}

run "judge_node_with_half_a_hash" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    judge_node = { url = "https://example.com/judge-node.pyz", sha256 = "9f86d081884c7d659a2feaa0c55ad015" }
  }

  expect_failures = [var.judge_node]
}

run "judge_node_program_that_is_not_there" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    judge_node_program = "no-such-file.pyz"
  }

  expect_failures = [var.judge_node_program]
}

run "timeouts_without_a_unit" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    timeouts = { create = "60" }
  }

  expect_failures = [var.timeouts]
}

run "key_name_that_is_empty" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    key_name = ""
  }

  expect_failures = [var.key_name]
}

run "model_commit_that_is_a_branch" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    model_commits = ["main"]
  }

  expect_failures = [var.model_commits]
}
