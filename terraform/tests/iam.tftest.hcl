mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment  = "prod"
  cluster_name = "judge-prod"
  subnet_ids   = ["subnet-0aaaaaaaaaaaaaaaa", "subnet-0bbbbbbbbbbbbbbbb"]
}

run "by_default_a_role_that_reads_nothing_of_ours" {
  command = plan

  assert {
    condition = jsondecode(aws_iam_role.node[0].assume_role_policy).Statement == [{
      Sid = "NodesAreInstances", Effect = "Allow", Action = ["sts:AssumeRole"], Principal = { Service = "ec2.amazonaws.com" }
    }]
    error_message = "not EC2 alone may take the role: ${aws_iam_role.node[0].assume_role_policy}"
  }

  assert {
    condition = toset([for attachment in aws_iam_role_policy_attachment.node : attachment.policy_arn]) == toset([
      "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly",
      "arn:aws:iam::aws:policy/AmazonEKSWorkerNodePolicy",
      "arn:aws:iam::aws:policy/AmazonEKS_CNI_Policy",
      "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore",
    ])
    error_message = "the role's managed policies are not the four that a node needs"
  }

  assert {
    condition     = length(aws_iam_role_policy.node) == 0
    error_message = "without a secret and a mirror the role has a policy of its own"
  }

  assert {
    condition     = aws_iam_role.node[0].name_prefix == "judge-prod-ai-" && aws_iam_role.node[0].permissions_boundary == null
    error_message = "the role is not called after the environment"
  }

  assert {
    condition     = aws_iam_role.node[0].tags == tomap({ Environment = "prod", ManagedBy = "terraform", role = "ai-gpu" })
    error_message = "the role does not carry the tags"
  }
}

run "a_long_name_still_makes_a_role_s_prefix" {
  command = plan

  variables {
    environment = "a23456789012345678901234567890"
    sandbox     = "b2345678901234567890123"
  }

  assert {
    condition     = length(aws_iam_role.node[0].name_prefix) <= 38 && !endswith(aws_iam_role.node[0].name_prefix, "--")
    error_message = "IAM takes a prefix of 38 characters: ${aws_iam_role.node[0].name_prefix}"
  }
}

run "another_partition_has_its_own_arns" {
  command = plan

  override_data {
    target = data.aws_partition.current
    values = { partition = "aws-cn", dns_suffix = "amazonaws.com.cn" }
  }

  assert {
    condition     = alltrue([for attachment in aws_iam_role_policy_attachment.node : startswith(attachment.policy_arn, "arn:aws-cn:iam::aws:policy/")])
    error_message = "a managed policy is of another partition"
  }

  assert {
    condition     = jsondecode(aws_iam_role.node[0].assume_role_policy).Statement[0].Principal.Service == "ec2.amazonaws.com.cn"
    error_message = "the role's principal is of another partition"
  }
}

run "a_role_that_exists_is_taken_and_left_alone" {
  command = plan

  variables {
    node_role_arn       = "arn:aws:iam::111122223333:role/judge-nodes"
    hf_token_secret_arn = "arn:aws:secretsmanager:us-east-1:111122223333:secret:hf-token-AbCdEf"
  }

  assert {
    condition     = aws_eks_node_group.ai[0].node_role_arn == var.node_role_arn && output.node_role_arn == var.node_role_arn
    error_message = "the nodes do not get the role that was given"
  }

  assert {
    condition     = length(aws_iam_role.node) + length(aws_iam_role_policy_attachment.node) + length(aws_iam_role_policy.node) == 0
    error_message = "a second role is made, or the one that was given is changed"
  }
}

run "a_boundary_bounds_the_role" {
  command = plan

  variables {
    permissions_boundary_arn = "arn:aws:iam::111122223333:policy/boundary"
  }

  assert {
    condition     = aws_iam_role.node[0].permissions_boundary == var.permissions_boundary_arn
    error_message = "the role has no boundary"
  }
}

run "one_secret_can_be_read_and_no_other" {
  command = plan

  variables {
    hf_token_secret_arn  = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:hf-token-AbCdEf"
    hf_token_kms_key_arn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd"
  }

  assert {
    condition = jsondecode(aws_iam_role_policy.node[0].policy).Statement == [
      { Sid = "ReadHubToken", Effect = "Allow", Action = ["secretsmanager:GetSecretValue"], Resource = [var.hf_token_secret_arn] },
      {
        Sid       = "DecryptHubToken", Effect = "Allow", Action = ["kms:Decrypt"], Resource = [var.hf_token_kms_key_arn]
        Condition = { StringEquals = { "kms:ViaService" = "secretsmanager.eu-west-1.amazonaws.com" } }
      },
    ]
    error_message = "nodes may read something else than the secret: ${aws_iam_role_policy.node[0].policy}"
  }

  assert {
    condition     = contains(jsondecode(aws_iam_policy.operator[0].policy).Statement[*].Sid, "ReadHubToken")
    error_message = "operators cannot bring the token into the cluster (secrets apply --from aws)"
  }
}

run "nodes_read_two_prefixes_of_the_mirror" {
  command = plan

  variables {
    mirror = { enabled = true, prefix = "hub/models", vpc_endpoint_ids = ["vpce-0a"] }
  }

  assert {
    condition = jsondecode(aws_iam_role_policy.node[0].policy).Statement == [
      {
        Sid      = "ReadMirror", Effect = "Allow", Action = ["s3:GetObject"]
        Resource = ["arn:aws:s3:::judge-prod-ai-mirror-111122223333/hub/models/*", "arn:aws:s3:::judge-prod-ai-mirror-111122223333/judge-node/*"]
      },
      {
        Sid       = "ListMirror", Effect = "Allow", Action = ["s3:ListBucket"], Resource = ["arn:aws:s3:::judge-prod-ai-mirror-111122223333"]
        Condition = { StringLike = { "s3:prefix" = ["hub/models/*", "judge-node/*"] } }
      },
    ]
    error_message = "nodes may do something else with the mirror: ${aws_iam_role_policy.node[0].policy}"
  }

  assert {
    condition = [for statement in jsondecode(aws_iam_policy.operator[0].policy).Statement : "${join(" ", statement.Action)} ${join(" ", statement.Resource)}" if startswith(statement.Action[0], "s3:")] == [
      "s3:ListBucket arn:aws:s3:::judge-prod-ai-mirror-111122223333",
      "s3:AbortMultipartUpload s3:GetObject s3:PutObject arn:aws:s3:::judge-prod-ai-mirror-111122223333/hub/models/*",
    ]
    error_message = "operators cannot fill the mirror, or may do more with it: ${aws_iam_policy.operator[0].policy}"
  }
}

run "the_mirror_s_key_works_through_s3_only" {
  command = plan

  variables {
    mirror             = { enabled = true, kms_key_arn = "arn:aws:kms:us-east-1:111122223333:key/1234abcd" }
    judge_node_program = "./tests/mocks/judge-node.txt"
  }

  assert {
    condition = [for statement in jsondecode(aws_iam_role_policy.node[0].policy).Statement : statement if statement.Action[0] == "kms:Decrypt"] == [{
      Sid       = "DecryptMirror", Effect = "Allow", Action = ["kms:Decrypt"], Resource = ["arn:aws:kms:us-east-1:111122223333:key/1234abcd"]
      Condition = { StringEquals = { "kms:ViaService" = "s3.us-east-1.amazonaws.com" } }
    }]
    error_message = "nodes may use the key otherwise: ${aws_iam_role_policy.node[0].policy}"
  }

  assert {
    condition = [for statement in jsondecode(aws_iam_policy.operator[0].policy).Statement : statement if statement.Sid == "EncryptMirror"] == [{
      Sid       = "EncryptMirror", Effect = "Allow", Action = ["kms:Decrypt", "kms:GenerateDataKey"], Resource = ["arn:aws:kms:us-east-1:111122223333:key/1234abcd"]
      Condition = { StringEquals = { "kms:ViaService" = "s3.us-east-1.amazonaws.com" } }
    }]
    error_message = "operators may use the key otherwise: ${aws_iam_policy.operator[0].policy}"
  }
}

run "an_operator_opens_sessions_on_these_nodes_alone" {
  command = plan

  assert {
    condition = [for statement in jsondecode(aws_iam_policy.operator[0].policy).Statement : statement.Sid] == [
      "FindNodes", "ReachCluster", "OpenSessionOnNodes", "UseSessionDocuments", "EndOwnSessions", "PushSshKey",
    ]
    error_message = "the operator may do something else: ${aws_iam_policy.operator[0].policy}"
  }

  assert {
    condition     = [for statement in jsondecode(aws_iam_policy.operator[0].policy).Statement : statement.Sid if contains(statement.Resource, "*")] == ["FindNodes"]
    error_message = "more than DescribeInstances, which knows no resources, is allowed on everything"
  }

  assert {
    condition     = alltrue(flatten([for statement in jsondecode(aws_iam_policy.operator[0].policy).Statement : [for action in statement.Action : !strcontains(action, "*")]]))
    error_message = "an action has a wildcard"
  }

  assert {
    condition = jsondecode(aws_iam_policy.operator[0].policy).Statement[2].Condition == {
      StringEquals = {
        "ssm:resourceTag/Environment"      = "prod"
        "ssm:resourceTag/role"             = "ai-gpu"
        "ssm:resourceTag/eks:cluster-name" = "judge-prod"
      }
      BoolIfExists = { "ssm:SessionDocumentAccessCheck" = "true" }
      Null         = { "ssm:resourceTag/Sandbox" = "true" }
    }
    error_message = "sessions can be opened on other instances: ${aws_iam_policy.operator[0].policy}"
  }

  assert {
    condition = jsondecode(aws_iam_policy.operator[0].policy).Statement[3].Resource == [
      "arn:aws:ssm:us-east-1::document/AWS-StartSSHSession",
      "arn:aws:ssm:us-east-1:111122223333:document/SSM-SessionManagerRunShell",
    ]
    error_message = "sessions of another kind can be opened (port forwarding, commands)"
  }

  assert {
    condition     = jsondecode(aws_iam_policy.operator[0].policy).Statement[4].Condition == { StringLike = { "ssm:resourceTag/aws:ssmmessages:session-id" = ["$${aws:userid}"] } }
    error_message = "an operator may end the sessions of others"
  }

  assert {
    condition = jsondecode(aws_iam_policy.operator[0].policy).Statement[5] == {
      Sid      = "PushSshKey", Effect = "Allow", Action = ["ec2-instance-connect:SendSSHPublicKey"]
      Resource = ["arn:aws:ec2:us-east-1:111122223333:instance/*"]
      Condition = {
        StringEquals = {
          "aws:ResourceTag/Environment"      = "prod"
          "aws:ResourceTag/role"             = "ai-gpu"
          "aws:ResourceTag/eks:cluster-name" = "judge-prod"
          "ec2:osuser"                       = "ec2-user"
        }
        Null = { "aws:ResourceTag/Sandbox" = "true" }
      }
    }
    error_message = "ssh does not get into these nodes, or gets into others: ${aws_iam_policy.operator[0].policy}"
  }
}

run "an_operator_of_a_sandbox_reaches_that_sandbox" {
  command = plan

  variables {
    sandbox = "anna"
  }

  assert {
    condition = jsondecode(aws_iam_policy.operator[0].policy).Statement[2].Condition == {
      StringEquals = {
        "ssm:resourceTag/Environment"      = "prod-anna"
        "ssm:resourceTag/role"             = "ai-gpu"
        "ssm:resourceTag/eks:cluster-name" = "judge-prod"
        "ssm:resourceTag/Sandbox"          = "anna"
      }
      BoolIfExists = { "ssm:SessionDocumentAccessCheck" = "true" }
    }
    error_message = "sessions can be opened on other instances: ${aws_iam_policy.operator[0].policy}"
  }

  assert {
    condition = jsondecode(aws_iam_policy.operator[0].policy).Statement[5].Condition == {
      StringEquals = {
        "aws:ResourceTag/Environment"      = "prod-anna"
        "aws:ResourceTag/role"             = "ai-gpu"
        "aws:ResourceTag/eks:cluster-name" = "judge-prod"
        "aws:ResourceTag/Sandbox"          = "anna"
        "ec2:osuser"                       = "ec2-user"
      }
    }
    error_message = "ssh keys can be pushed to other instances: ${aws_iam_policy.operator[0].policy}"
  }
}

run "settings_are_read_from_one_configuration" {
  command = apply

  variables {
    appconfig = { enabled = true }
  }

  assert {
    condition = [for statement in jsondecode(aws_iam_policy.operator[0].policy).Statement : statement if statement.Sid == "ReadSettings"] == [{
      Sid      = "ReadSettings", Effect = "Allow", Action = ["appconfig:GetLatestConfiguration", "appconfig:StartConfigurationSession"]
      Resource = ["arn:aws:appconfig:us-east-1:111122223333:application/app1234/environment/env1234/configuration/pro1234"]
    }]
    error_message = "the operator may read another configuration: ${aws_iam_policy.operator[0].policy}"
  }

  assert {
    condition     = output.appconfig == { application = "app1234", environment = "env1234", profile = "pro1234" }
    error_message = "the output does not have the ids"
  }
}

run "no_operator_policy_where_none_is_wanted" {
  command = plan

  variables {
    create_operator_policy = false
  }

  assert {
    condition     = length(aws_iam_policy.operator) == 0 && output.operator_policy_arn == null
    error_message = "the policy is made all the same"
  }
}

run "switched_off_there_is_no_role_and_no_policy" {
  command = plan

  variables {
    enabled             = false
    hf_token_secret_arn = "arn:aws:secretsmanager:us-east-1:111122223333:secret:hf-token-AbCdEf"
  }

  assert {
    condition     = length(aws_iam_role.node) + length(aws_iam_role_policy_attachment.node) + length(aws_iam_role_policy.node) + length(aws_iam_policy.operator) == 0
    error_message = "something of IAM is left"
  }
}

run "a_role_s_arn_and_not_its_name" {
  command = plan

  variables {
    node_role_arn = "judge-nodes"
  }

  expect_failures = [var.node_role_arn]
}

run "a_boundary_s_arn_and_not_its_name" {
  command = plan

  variables {
    permissions_boundary_arn = "boundary"
  }

  expect_failures = [var.permissions_boundary_arn]
}

run "no_secrets_by_wildcard" {
  command = plan

  variables {
    hf_token_secret_arn = "arn:aws:secretsmanager:us-east-1:111122223333:secret:hf-*"
  }

  expect_failures = [var.hf_token_secret_arn]
}

run "no_alias_for_the_secret_s_key" {
  command = plan

  variables {
    hf_token_kms_key_arn = "arn:aws:kms:us-east-1:111122223333:alias/hub"
  }

  expect_failures = [var.hf_token_kms_key_arn]
}
