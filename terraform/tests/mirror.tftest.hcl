mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment  = "prod"
  cluster_name = "judge-prod"
  subnet_ids   = ["subnet-0aaaaaaaaaaaaaaaa", "subnet-0bbbbbbbbbbbbbbbb"]
}

run "by_default_there_is_no_mirror" {
  command = plan

  assert {
    condition     = length(aws_s3_bucket.mirror) + length(aws_s3_bucket_policy.mirror) + length(aws_vpc_endpoint.mirror) + length(aws_s3_object.program) == 0
    error_message = "something of a mirror is made without being asked for"
  }

  assert {
    condition     = output.mirror_bucket == null && output.mirror_url == null
    error_message = "the outputs name a mirror"
  }
}

run "a_mirror_is_encrypted_versioned_closed_and_tidied" {
  command = plan

  variables {
    mirror = { enabled = true, vpc_endpoint_ids = ["vpce-0a"] }
  }

  assert {
    condition     = aws_s3_bucket.mirror[0].bucket == "judge-prod-ai-mirror-111122223333" && aws_s3_bucket.mirror[0].force_destroy == false
    error_message = "the bucket's name is not the environment's with the account's number, or a destroy deletes models"
  }

  assert {
    condition     = aws_s3_bucket_versioning.mirror[0].versioning_configuration[0].status == "Enabled"
    error_message = "the bucket keeps no versions"
  }

  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.mirror[0].rule).apply_server_side_encryption_by_default).sse_algorithm == "AES256"
    error_message = "the bucket is not encrypted with S3's key"
  }

  assert {
    condition = (
      aws_s3_bucket_public_access_block.mirror[0].block_public_acls && aws_s3_bucket_public_access_block.mirror[0].block_public_policy
      && aws_s3_bucket_public_access_block.mirror[0].ignore_public_acls && aws_s3_bucket_public_access_block.mirror[0].restrict_public_buckets
    )
    error_message = "one of the four ways to the public is open"
  }

  assert {
    condition     = aws_s3_bucket_ownership_controls.mirror[0].rule[0].object_ownership == "BucketOwnerEnforced"
    error_message = "access lists of objects count"
  }

  assert {
    condition = (
      aws_s3_bucket_lifecycle_configuration.mirror[0].rule[0].status == "Enabled"
      && aws_s3_bucket_lifecycle_configuration.mirror[0].rule[0].abort_incomplete_multipart_upload[0].days_after_initiation == 7
      && aws_s3_bucket_lifecycle_configuration.mirror[0].rule[0].noncurrent_version_expiration[0].noncurrent_days == 30
    )
    error_message = "unfinished uploads or overwritten versions stay for ever"
  }

  assert {
    condition = jsondecode(aws_s3_bucket_policy.mirror[0].policy).Statement == [
      {
        Sid       = "DenyWithoutTls", Effect = "Deny", Principal = "*", Action = ["s3:*"]
        Resource  = ["arn:aws:s3:::judge-prod-ai-mirror-111122223333", "arn:aws:s3:::judge-prod-ai-mirror-111122223333/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
      {
        Sid       = "DenyOldTls", Effect = "Deny", Principal = "*", Action = ["s3:*"]
        Resource  = ["arn:aws:s3:::judge-prod-ai-mirror-111122223333", "arn:aws:s3:::judge-prod-ai-mirror-111122223333/*"]
        Condition = { NumericLessThan = { "s3:TlsVersion" = "1.2" } }
      },
      {
        Sid       = "ReadThroughEndpoint", Effect = "Allow", Principal = "*", Action = ["s3:GetObject"]
        Resource  = ["arn:aws:s3:::judge-prod-ai-mirror-111122223333/models/*"]
        Condition = { StringEquals = { "aws:SourceVpce" = ["vpce-0a"] } }
      },
    ]
    error_message = "the bucket's policy is another: ${aws_s3_bucket_policy.mirror[0].policy}"
  }

  assert {
    condition     = output.mirror_bucket == "judge-prod-ai-mirror-111122223333" && output.mirror_url == "s3://judge-prod-ai-mirror-111122223333/models"
    error_message = "the outputs do not name the mirror"
  }

  assert {
    condition     = local.mirror.https_url == "https://judge-prod-ai-mirror-111122223333.s3.us-east-1.amazonaws.com/models"
    error_message = "nodes are told another address: ${jsonencode(local.mirror.https_url)}"
  }

  assert {
    condition     = length(aws_vpc_endpoint.mirror) == 0
    error_message = "an endpoint is made, whose policy would hold for the whole VPC"
  }
}

run "a_key_of_kms_is_used_and_closes_the_mirror_to_readers_without_credentials" {
  command = plan

  variables {
    mirror             = { enabled = true, kms_key_arn = "arn:aws:kms:us-east-1:111122223333:key/1234abcd", vpc_endpoint_ids = ["vpce-0a"] }
    judge_node_program = "./tests/mocks/judge-node.txt"
  }

  assert {
    condition = (
      one(one(aws_s3_bucket_server_side_encryption_configuration.mirror[0].rule).apply_server_side_encryption_by_default).sse_algorithm == "aws:kms"
      && one(one(aws_s3_bucket_server_side_encryption_configuration.mirror[0].rule).apply_server_side_encryption_by_default).kms_master_key_id == "arn:aws:kms:us-east-1:111122223333:key/1234abcd"
      && one(aws_s3_bucket_server_side_encryption_configuration.mirror[0].rule).bucket_key_enabled
    )
    error_message = "the key is not the bucket's"
  }

  assert {
    condition     = jsondecode(aws_s3_bucket_policy.mirror[0].policy).Statement[*].Sid == ["DenyWithoutTls", "DenyOldTls"] && local.mirror.https_url == null
    error_message = "nodes are sent to a mirror that will not answer them"
  }
}

run "a_name_and_a_prefix_of_one_s_own" {
  command = plan

  variables {
    mirror = { enabled = true, bucket_name = "acme-models", prefix = "hub/v1", force_destroy = true, vpc_endpoint_ids = ["vpce-0a"] }
  }

  assert {
    condition     = output.mirror_url == "s3://acme-models/hub/v1" && aws_s3_bucket.mirror[0].force_destroy
    error_message = "the mirror is not where it was wanted: ${output.mirror_url}"
  }
}

run "an_endpoint_lets_nodes_read_and_start" {
  command = plan

  variables {
    mirror = { enabled = true, vpc_endpoint = { vpc_id = "vpc-0a", route_table_ids = ["rtb-0a", "rtb-0b"] } }
  }

  assert {
    condition = (
      aws_vpc_endpoint.mirror[0].vpc_endpoint_type == "Gateway" && aws_vpc_endpoint.mirror[0].service_name == "com.amazonaws.us-east-1.s3"
      && aws_vpc_endpoint.mirror[0].vpc_id == "vpc-0a" && aws_vpc_endpoint.mirror[0].route_table_ids == toset(["rtb-0a", "rtb-0b"])
    )
    error_message = "the endpoint is another"
  }

  assert {
    condition     = alltrue([for statement in jsondecode(aws_vpc_endpoint.mirror[0].policy).Statement : statement.Effect == "Allow" && statement.Action == ["s3:GetObject"]])
    error_message = "more than reading goes through the endpoint: ${aws_vpc_endpoint.mirror[0].policy}"
  }

  assert {
    condition = flatten(jsondecode(aws_vpc_endpoint.mirror[0].policy).Statement[*].Resource) == [
      "arn:aws:s3:::judge-prod-ai-mirror-111122223333/models/*",
      "arn:aws:s3:::judge-prod-ai-mirror-111122223333/judge-node/*",
      "arn:aws:s3:::prod-us-east-1-starport-layer-bucket/*",
      "arn:aws:s3:::prod-registry-k8s-io-us-east-1/*",
      "arn:aws:s3:::docker-images-prod/*",
      "arn:aws:s3:::al2023-repos-us-east-1-de612dc2/*",
      "arn:aws:s3:::amazon-ssm-us-east-1/*",
      "arn:aws:s3:::aws-ssm-us-east-1/*",
    ]
    error_message = "the endpoint leads to other buckets: ${aws_vpc_endpoint.mirror[0].policy}"
  }

  assert {
    condition     = local.mirror.https_url != null
    error_message = "nodes do not read through the endpoint"
  }
}

run "the_endpoint_that_is_made_is_the_one_that_may_read" {
  command = apply

  variables {
    mirror = { enabled = true, vpc_endpoint = { vpc_id = "vpc-0a", route_table_ids = ["rtb-0a"] }, vpc_endpoint_ids = ["vpce-0b"] }
  }

  override_resource {
    target = aws_vpc_endpoint.mirror
    values = { id = "vpce-0a" }
  }

  assert {
    condition     = jsondecode(aws_s3_bucket_policy.mirror[0].policy).Statement[2].Condition == { StringEquals = { "aws:SourceVpce" = ["vpce-0b", "vpce-0a"] } }
    error_message = "the bucket's policy names other endpoints: ${aws_s3_bucket_policy.mirror[0].policy}"
  }
}

run "the_program_lies_under_its_hash" {
  command = plan

  variables {
    mirror             = { enabled = true, vpc_endpoint_ids = ["vpce-0a"] }
    nvme_owner         = "judge"
    judge_node_program = "./tests/mocks/judge-node.txt"
  }

  assert {
    condition     = aws_s3_object.program[0].key == "judge-node/${filesha256("./tests/mocks/judge-node.txt")}/judge-node.pyz" && aws_s3_object.program[0].source == var.judge_node_program
    error_message = "the program lies elsewhere: ${aws_s3_object.program[0].key}"
  }

  assert {
    condition     = local.program_url == "s3://judge-prod-ai-mirror-111122223333/${aws_s3_object.program[0].key}"
    error_message = "nodes are told another address: ${local.program_url}"
  }
}

run "a_program_needs_a_mirror" {
  command = plan

  variables {
    judge_node_program = "./tests/mocks/judge-node.txt"
  }

  expect_failures = [aws_s3_object.program]
}

run "a_mirror_that_no_node_reads_is_warned_of" {
  command = plan

  variables {
    mirror = { enabled = true }
  }

  expect_failures = [check.mirror_is_read]
}

run "a_bucket_s_name_of_more_than_63_characters" {
  command = plan

  variables {
    sandbox = "a-sandbox-with-a-rather-long-name-12"
    mirror  = { enabled = true, vpc_endpoint_ids = ["vpce-0a"] }
  }

  expect_failures = [aws_s3_bucket.mirror]
}

run "switched_off_there_is_no_mirror" {
  command = plan

  variables {
    enabled = false
    mirror  = { enabled = true, vpc_endpoint = { vpc_id = "vpc-0a", route_table_ids = ["rtb-0a"] } }
  }

  assert {
    condition     = length(aws_s3_bucket.mirror) + length(aws_s3_bucket_policy.mirror) + length(aws_vpc_endpoint.mirror) == 0
    error_message = "something of the mirror is left"
  }
}

run "no_dots_in_a_bucket_s_name" {
  command = plan

  variables {
    mirror = { bucket_name = "models.acme.example" }
  }

  expect_failures = [var.mirror]
}

run "none_of_s3_s_reserved_names" {
  command = plan

  variables {
    mirror = { bucket_name = "models--ol-s3" }
  }

  expect_failures = [var.mirror]
}

run "no_prefix_with_a_slash_at_its_end" {
  command = plan

  variables {
    mirror = { prefix = "models/" }
  }

  expect_failures = [var.mirror]
}

run "no_models_where_the_program_lies" {
  command = plan

  variables {
    mirror = { prefix = "judge-node" }
  }

  expect_failures = [var.mirror]
}

run "no_alias_for_the_mirror_s_key" {
  command = plan

  variables {
    mirror = { kms_key_arn = "arn:aws:kms:us-east-1:111122223333:alias/models" }
  }

  expect_failures = [var.mirror]
}

run "a_vpc_by_its_id" {
  command = plan

  variables {
    mirror = { vpc_endpoint = { vpc_id = "main", route_table_ids = ["rtb-0a"] } }
  }

  expect_failures = [var.mirror]
}

run "an_endpoint_for_at_least_one_route_table" {
  command = plan

  variables {
    mirror = { vpc_endpoint = { vpc_id = "vpc-0a", route_table_ids = [] } }
  }

  expect_failures = [var.mirror]
}

run "endpoints_by_their_ids" {
  command = plan

  variables {
    mirror = { vpc_endpoint_ids = ["com.amazonaws.us-east-1.s3"] }
  }

  expect_failures = [var.mirror]
}
