# Values that are each fine, and together must not get as far as AWS. What each message says is asserted by tests/terraform, which reads it.
mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment  = "prod"
  cluster_name = "judge-prod"
  subnet_ids   = ["subnet-0aaaaaaaaaaaaaaaa"]
}

run "names_longer_than_eks_allows" {
  command = plan

  variables {
    environment = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    sandbox     = "bbbbbbbbbbbbbbbbbbbbbbbbb"
  }

  expect_failures = [aws_eks_node_group.ai]
}

run "min_size_above_max_size" {
  command = plan

  variables {
    min_size     = 3
    max_size     = 2
    desired_size = 3
  }

  expect_failures = [aws_eks_node_group.ai]
}

run "desired_size_above_max_size" {
  command = plan

  variables {
    desired_size = 5
  }

  expect_failures = [aws_eks_node_group.ai]
}

run "desired_size_below_min_size" {
  command = plan

  variables {
    desired_size = 0
    min_size     = 1
  }

  expect_failures = [aws_eks_node_group.ai]
}

run "an_image_of_another_kubernetes" {
  command = plan

  variables {
    kubernetes_version  = "1.3"
    ami_release_version = "1.33.5-20251120"
  }

  expect_failures = [aws_eks_node_group.ai]
}

run "two_places_for_judge_node" {
  command = plan

  variables {
    judge_node         = { url = "https://example.com/judge-node.pyz", sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" }
    judge_node_program = "tests/mocks/judge-node.txt"
    mirror             = { enabled = true }
  }

  expect_failures = [aws_launch_template.ai]
}

run "a_program_without_a_mirror" {
  command = plan

  variables {
    judge_node_program = "tests/mocks/judge-node.txt"
  }

  expect_failures = [aws_s3_object.program]
}

run "mount_path_below_nodeadm_s" {
  command = plan

  variables {
    nvme_mount_path = "/mnt/k8s-disks/models"
  }

  expect_failures = [aws_launch_template.ai]
}

run "startup_taint_among_the_group_s" {
  command = plan

  variables {
    taints = [{ key = "judge-bootstrap.io/model-not-ready" }]
  }

  expect_failures = [aws_launch_template.ai]
}

run "a_type_without_instance_store" {
  command = plan

  variables {
    instance_types = ["g5.xlarge", "p3.2xlarge"]
  }

  override_data {
    target = data.aws_ec2_instance_type.this["p3.2xlarge"]
    values = {
      instance_storage_supported = false
      total_instance_storage     = 0
      instance_disks             = []
      gpus                       = [{ count = 1, manufacturer = "NVIDIA", memory_size = 24576, name = "A10G" }]
      supported_architectures    = ["x86_64"]
      supported_usages_classes   = ["on-demand", "spot"]
    }
  }

  expect_failures = [data.aws_ec2_instance_type.this]
}

run "a_type_without_a_gpu" {
  command = plan

  variables {
    instance_types = ["m5d.xlarge"]
  }

  override_data {
    target = data.aws_ec2_instance_type.this["m5d.xlarge"]
    values = {
      instance_storage_supported = true
      total_instance_storage     = 250
      instance_disks             = [{ count = 1, size = 250, type = "ssd" }]
      gpus                       = []
      supported_architectures    = ["x86_64"]
      supported_usages_classes   = ["on-demand", "spot"]
    }
  }

  expect_failures = [data.aws_ec2_instance_type.this]
}

run "a_type_with_another_maker_s_gpu" {
  command = plan

  variables {
    instance_types = ["g4ad.xlarge"]
  }

  override_data {
    target = data.aws_ec2_instance_type.this["g4ad.xlarge"]
    values = {
      instance_storage_supported = true
      total_instance_storage     = 250
      instance_disks             = [{ count = 1, size = 250, type = "ssd" }]
      gpus                       = [{ count = 1, manufacturer = "AMD", memory_size = 8192, name = "Radeon Pro V520" }]
      supported_architectures    = ["x86_64"]
      supported_usages_classes   = ["on-demand", "spot"]
    }
  }

  expect_failures = [data.aws_ec2_instance_type.this]
}

run "a_type_of_another_architecture" {
  command = plan

  variables {
    ami_type = "AL2023_ARM_64_NVIDIA"
  }

  expect_failures = [data.aws_ec2_instance_type.this]
}

run "a_type_that_has_no_spot" {
  command = plan

  variables {
    instance_types = ["p6e-gb200.36xlarge"]
    capacity_type  = "SPOT"
  }

  override_data {
    target = data.aws_ec2_instance_type.this["p6e-gb200.36xlarge"]
    values = {
      instance_storage_supported = true
      total_instance_storage     = 250
      instance_disks             = [{ count = 1, size = 250, type = "ssd" }]
      gpus                       = [{ count = 1, manufacturer = "NVIDIA", memory_size = 24576, name = "A10G" }]
      supported_architectures    = ["x86_64"]
      supported_usages_classes   = ["on-demand"]
    }
  }

  expect_failures = [data.aws_ec2_instance_type.this]
}

run "raid10_of_one_disk" {
  command = plan

  variables {
    nvme_strategy = "RAID10"
  }

  expect_failures = [data.aws_ec2_instance_type.this]
}
