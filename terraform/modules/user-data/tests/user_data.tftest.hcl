# What can be said without a node: each mode, and what each mistake is told. The script itself is compared with
# judge-node's own, and run, by tests/terraform.

variables {
  judge_node = {
    url    = "https://mirror.example/judge-node.pyz"
    sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
  }
}

run "nodeadm_without_a_program_is_a_node_config_alone" {
  command = plan
  variables {
    judge_node = null
  }
  assert {
    condition     = output.node_config.spec.instance.localStorage == { strategy = "RAID0" }
    error_message = "found ${jsonencode(output.node_config)}"
  }
  assert {
    condition     = !strcontains(output.user_data, "text/x-shellscript")
    error_message = "found ${output.user_data}"
  }
}

run "nodeadm_with_a_program_does_not_wait_for_it" {
  command = plan
  assert {
    condition     = strcontains(output.user_data, "systemctl start --no-block") && strcontains(output.user_data, "--owner nodeadm")
    error_message = "found ${output.user_data}"
  }
}

run "nodeadm_mounts_where_it_is_told" {
  command = plan
  variables {
    nvme_nodeadm_path = "/mnt/fast"
    nvme_strategy     = "RAID10"
  }
  assert {
    condition     = output.node_config.spec.instance.localStorage == { strategy = "RAID10", mountPath = "/mnt/fast" }
    error_message = "found ${jsonencode(output.node_config)}"
  }
}

run "judge_leaves_the_disks_alone_in_the_node_config" {
  command = plan
  variables {
    nvme_owner = "judge"
  }
  assert {
    condition     = !can(output.node_config.spec.instance)
    error_message = "found ${jsonencode(output.node_config)}"
  }
  assert {
    condition     = !strcontains(output.user_data, "--no-block") && strcontains(output.user_data, "--owner judge")
    error_message = "found ${output.user_data}"
  }
}

run "judge_needs_a_program" {
  command = plan
  variables {
    nvme_owner = "judge"
    judge_node = null
  }
  expect_failures = [output.user_data]
}

run "taints_are_registered_by_kubelet" {
  command = plan
  variables {
    taints = [{ key = "sku", value = "gpu", effect = "NoSchedule" }, { key = "judge-bootstrap.io/model-not-ready", effect = "NoSchedule" }]
  }
  assert {
    condition = jsonencode(output.node_config.spec.kubelet.config.registerWithTaints) == jsonencode([
      { key = "sku", value = "gpu", effect = "NoSchedule" },
      { key = "judge-bootstrap.io/model-not-ready", value = "", effect = "NoSchedule" },
    ])
    error_message = "found ${jsonencode(output.node_config)}"
  }
}

run "a_node_config_of_the_users_is_merged" {
  command = plan
  variables {
    taints      = [{ key = "sku", value = "gpu", effect = "NoSchedule" }]
    node_config = <<-EOT
      apiVersion: node.eks.aws/v1alpha1
      kind: NodeConfig
      spec:
        kubelet:
          config: {maxPods: 20}
          flags: ["--v=2"]
        containerd: {config: "x = 1"}
    EOT
  }
  assert {
    condition     = output.node_config.spec.kubelet.config.maxPods == 20 && length(output.node_config.spec.kubelet.config.registerWithTaints) == 1
    error_message = "found ${jsonencode(output.node_config)}"
  }
  assert {
    condition     = output.node_config.spec.kubelet.flags[0] == "--v=2" && output.node_config.spec.containerd.config == "x = 1"
    error_message = "found ${jsonencode(output.node_config)}"
  }
  assert {
    condition     = output.node_config.spec.instance.localStorage.strategy == "RAID0"
    error_message = "found ${jsonencode(output.node_config)}"
  }
}

run "another_api_version_is_refused" {
  command = plan
  variables {
    node_config = "{apiVersion: node.eks.aws/v1alpha, kind: NodeConfig, spec: {}}"
  }
  expect_failures = [output.node_config]
}

run "too_much_is_refused" {
  command = plan
  variables {
    node_config = jsonencode({
      apiVersion = "node.eks.aws/v1alpha1", kind = "NodeConfig"
      spec       = { containerd = { config = join("\n", [for number in range(1000) : "key${number} = 1234"]) } }
    })
  }
  expect_failures = [output.user_data]
}

run "sizes_and_encodings_agree" {
  command = plan
  assert {
    condition     = output.size_bytes == length(output.user_data) && base64decode(output.user_data_base64) == output.user_data
    error_message = "found ${output.size_bytes} bytes"
  }
}

run "an_owner_is_nodeadm_or_judge" {
  command = plan
  variables {
    nvme_owner = "auto"
  }
  expect_failures = [var.nvme_owner]
}

run "a_url_may_not_hold_a_password" {
  command = plan
  variables {
    judge_node = { url = "https://user:secret@mirror.example/x", sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }
  }
  expect_failures = [var.judge_node]
}
