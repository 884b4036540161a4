mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment  = "prod"
  cluster_name = "judge-prod"
  subnet_ids   = ["subnet-0aaaaaaaaaaaaaaaa", "subnet-0bbbbbbbbbbbbbbbb"]
}

run "by_default_there_is_no_warm_pool" {
  command = plan

  assert {
    condition     = length(terraform_data.warm_pool) + length(terraform_data.warm_pool_removal) == 0
    error_message = "a warm pool is made without being asked for"
  }
}

run "eks_is_told_everything_that_was_said" {
  command = plan

  variables {
    nvme_owner = "judge"
    judge_node = { url = "https://example.com/judge-node.pyz", sha256 = "00000000000000000000000000000000000000000000000000000000000000aa" }
    warm_pool  = { min_size = 1, max_group_prepared_capacity = 3, reuse_on_scale_in = true }
  }

  assert {
    condition = jsondecode(terraform_data.warm_pool[0].input) == {
      enabled = true, poolState = "STOPPED", minSize = 1, maxGroupPreparedCapacity = 3, reuseOnScaleIn = true
    }
    error_message = "the pool is another: ${terraform_data.warm_pool[0].input}"
  }

  assert {
    condition     = length(terraform_data.warm_pool_removal) == 1
    error_message = "nothing would remove the pool again"
  }
}

run "running_instances_may_have_their_disks_from_nodeadm" {
  command = plan

  variables {
    max_size  = 4
    warm_pool = { pool_state = "RUNNING" }
  }

  assert {
    condition = jsondecode(terraform_data.warm_pool[0].input) == {
      enabled = true, poolState = "RUNNING", minSize = 0, maxGroupPreparedCapacity = 4, reuseOnScaleIn = false
    }
    error_message = "the pool is another, or can have more instances than the group: ${terraform_data.warm_pool[0].input}"
  }
}

run "switched_off_there_is_no_warm_pool" {
  command = plan

  variables {
    enabled   = false
    warm_pool = {}
  }

  assert {
    condition     = length(terraform_data.warm_pool) + length(terraform_data.warm_pool_removal) == 0
    error_message = "something of the warm pool is left"
  }
}

run "stopped_instances_lose_what_nodeadm_built" {
  command = plan

  variables {
    warm_pool = {}
  }

  expect_failures = [terraform_data.warm_pool]
}

run "no_pool_of_spot_instances" {
  command = plan

  variables {
    capacity_type = "SPOT"
    warm_pool     = { pool_state = "RUNNING" }
  }

  expect_failures = [terraform_data.warm_pool]
}

run "a_pool_not_smaller_than_its_least" {
  command = plan

  variables {
    warm_pool = { pool_state = "RUNNING", min_size = 3, max_group_prepared_capacity = 2 }
  }

  expect_failures = [terraform_data.warm_pool]
}

run "no_hibernation" {
  command = plan

  variables {
    warm_pool = { pool_state = "HIBERNATED" }
  }

  expect_failures = [var.warm_pool]
}

run "no_other_state" {
  command = plan

  variables {
    warm_pool = { pool_state = "running" }
  }

  expect_failures = [var.warm_pool]
}

run "no_half_instance_waits" {
  command = plan

  variables {
    warm_pool = { min_size = 1.5 }
  }

  expect_failures = [var.warm_pool]
}

run "no_capacity_below_zero" {
  command = plan

  variables {
    warm_pool = { max_group_prepared_capacity = -1 }
  }

  expect_failures = [var.warm_pool]
}
