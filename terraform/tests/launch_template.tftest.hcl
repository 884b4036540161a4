mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment  = "prod"
  cluster_name = "judge-prod"
  subnet_ids   = ["subnet-0aaaaaaaaaaaaaaaa"]
}

run "by_default_private_encrypted_and_without_a_way_in" {
  command = plan

  assert {
    condition     = aws_launch_template.ai[0].name == "judge-prod-ai" && aws_launch_template.ai[0].update_default_version
    error_message = "the launch template is not named after its environment, or its default version stays behind"
  }

  assert {
    condition     = aws_launch_template.ai[0].metadata_options[0].http_tokens == "required" && aws_launch_template.ai[0].metadata_options[0].http_put_response_hop_limit == 1
    error_message = "IMDSv1 works, or pods reach the node's role"
  }

  assert {
    condition = aws_launch_template.ai[0].block_device_mappings[0].device_name == "/dev/xvda" && [for ebs in aws_launch_template.ai[0].block_device_mappings[0].ebs : {
      type = ebs.volume_type, size = ebs.volume_size, encrypted = ebs.encrypted, gone_with_the_node = ebs.delete_on_termination
    }] == [{ type = "gp3", size = 100, encrypted = "true", gone_with_the_node = "true" }]
    error_message = "the root volume is not an encrypted gp3 of 100 GiB that goes away with its node"
  }

  assert {
    condition     = aws_launch_template.ai[0].network_interfaces[0].associate_public_ip_address == "false"
    error_message = "a node may get a public address"
  }

  assert {
    condition     = aws_launch_template.ai[0].network_interfaces[0].security_groups == toset(["sg-0c1a5734aaaaaaaaa"])
    error_message = "the nodes are not in the cluster's security group"
  }

  assert {
    condition     = aws_launch_template.ai[0].key_name == null && aws_launch_template.ai[0].image_id == null
    error_message = "there is an ssh key, or an image that EKS does not choose"
  }

  assert {
    condition     = aws_launch_template.ai[0].monitoring[0].enabled
    error_message = "detailed monitoring is off"
  }

  assert {
    condition = { for of in aws_launch_template.ai[0].tag_specifications : of.resource_type => of.tags } == {
      for type in ["instance", "volume", "network-interface"] : type => tomap({
        Environment = "prod", ManagedBy = "terraform", Name = "judge-prod-ai", role = "ai-gpu"
      })
    }
    error_message = "what EC2 starts is not tagged: ${jsonencode(aws_launch_template.ai[0].tag_specifications)}"
  }

  assert {
    condition     = aws_launch_template.ai[0].user_data == module.user_data[0].user_data_base64 && output.user_data_bytes <= 12288
    error_message = "the user data is not the submodule's, or too long"
  }
}

run "root_volume_of_ones_own" {
  command = plan

  variables {
    disk_size_gib = 300
    kms_key_arn   = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
  }

  assert {
    condition     = aws_launch_template.ai[0].block_device_mappings[0].ebs[0].volume_size == 300 && aws_launch_template.ai[0].block_device_mappings[0].ebs[0].kms_key_id == var.kms_key_arn
    error_message = "the root volume has another size or key"
  }
}

run "security_groups_of_ones_own_ask_no_cluster" {
  command = plan

  variables {
    security_group_ids = ["sg-0aaaaaaaaaaaaaaaa", "sg-0bbbbbbbbbbbbbbbb"]
  }

  assert {
    condition     = aws_launch_template.ai[0].network_interfaces[0].security_groups == toset(["sg-0aaaaaaaaaaaaaaaa", "sg-0bbbbbbbbbbbbbbbb"])
    error_message = "the nodes are in other security groups"
  }

  assert {
    condition     = length(data.aws_eks_cluster.this) == 0
    error_message = "the cluster is read, which may not exist yet"
  }
}

run "a_key_pair_by_name" {
  command = plan

  variables {
    key_name = "on-call"
  }

  assert {
    condition     = aws_launch_template.ai[0].key_name == "on-call"
    error_message = "the nodes have another key"
  }
}

run "metadata_over_two_hops" {
  command = plan

  variables {
    imds_hop_limit = 2
  }

  assert {
    condition     = aws_launch_template.ai[0].metadata_options[0].http_put_response_hop_limit == 2
    error_message = "the hop limit is another"
  }
}

run "basic_monitoring" {
  command = plan

  variables {
    detailed_monitoring = false
  }

  assert {
    condition     = !aws_launch_template.ai[0].monitoring[0].enabled
    error_message = "detailed monitoring is on"
  }
}

run "tags_reach_instance_volume_and_interface" {
  command = plan

  variables {
    sandbox = "anna"
    tags    = { CostCenter = "42" }
  }

  assert {
    condition     = alltrue([for of in aws_launch_template.ai[0].tag_specifications : of.tags["CostCenter"] == "42" && of.tags["Sandbox"] == "anna"])
    error_message = "a tag does not reach what EC2 starts"
  }
}

run "a_change_of_the_disks_changes_the_user_data" {
  command = plan

  variables {
    nvme_strategy     = "Mount"
    nvme_nodeadm_path = "/mnt/disks"
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.ai[0].user_data), "Mount") && strcontains(base64decode(aws_launch_template.ai[0].user_data), "/mnt/disks")
    error_message = "nodeadm is told something else than the module"
  }

  assert {
    condition     = output.judge_bootstrap.variables.nvme_strategy == "Mount" && output.judge_bootstrap.variables.nvme_nodeadm_path == "/mnt/disks"
    error_message = "the playbooks are told something else than nodeadm"
  }
}

run "judge_node_at_first_boot" {
  command = plan

  variables {
    nvme_owner        = "judge"
    nvme_mount_path   = "/srv/models"
    nvme_fstype       = "ext4"
    nvme_wait_seconds = 120
    judge_node        = { url = "https://example.com/judge-node.pyz", sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" }
  }

  assert {
    condition = alltrue([for part in ["https://example.com/judge-node.pyz", var.judge_node.sha256, "/srv/models", "ext4", "120"] :
      strcontains(base64decode(aws_launch_template.ai[0].user_data), part)
    ])
    error_message = "the first boot does not get what it needs: ${base64decode(aws_launch_template.ai[0].user_data)}"
  }

  assert {
    condition     = output.judge_bootstrap.variables.model_cache_dir == "/srv/models/hub" && output.judge_bootstrap.variables.nvme_owner == "judge"
    error_message = "the playbooks look for models somewhere else"
  }
}

run "node_config_reaches_kubelet" {
  command = plan

  variables {
    node_config = "apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\nspec:\n  kubelet:\n    config:\n      maxPods: 42\n"
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.ai[0].user_data), "maxPods")
    error_message = "the NodeConfig of one's own is lost"
  }
}
