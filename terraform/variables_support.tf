variable "node_role_arn" {
  description = <<-EOT
    An IAM role for the nodes that exists already. Null makes one with no more rights than the nodes need. A role of one's
    own must carry those rights itself: what README.md lists under "What the node role may do". A change replaces the node group.
  EOT
  type        = string
  default     = null

  validation {
    condition     = var.node_role_arn == null ? true : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:role/[!-~]+$", var.node_role_arn))
    error_message = "node_role_arn is ${jsonencode(var.node_role_arn)}: it must be null, or the ARN of a role, such as arn:aws:iam::111122223333:role/judge-nodes."
  }
}

variable "permissions_boundary_arn" {
  description = "Policy that bounds the node role that the module makes, where the organisation wants one for every role. Null for none."
  type        = string
  default     = null

  validation {
    condition     = var.permissions_boundary_arn == null ? true : can(regex("^arn:[a-z-]+:iam::([0-9]{12}|aws):policy/[!-~]+$", var.permissions_boundary_arn))
    error_message = "permissions_boundary_arn is ${jsonencode(var.permissions_boundary_arn)}: it must be null, or the ARN of a policy, such as arn:aws:iam::111122223333:policy/boundary."
  }
}

variable "hf_token_secret_arn" {
  description = <<-EOT
    Secret of AWS Secrets Manager with the Hub token, for a gated model: nodes and operators may read this one and no other.
    The full ARN with its six random characters; the module neither makes nor reads it. Null: no secret may be read.
  EOT
  type        = string
  default     = null

  validation {
    condition     = var.hf_token_secret_arn == null ? true : can(regex("^arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]+-[A-Za-z0-9]{6}$", var.hf_token_secret_arn))
    error_message = "hf_token_secret_arn is ${jsonencode(var.hf_token_secret_arn)}: it must be null, or the full ARN of one secret without a wildcard, such as arn:aws:secretsmanager:us-east-1:111122223333:secret:hf-token-AbCdEf."
  }
}

variable "hf_token_kms_key_arn" {
  description = "KMS key that encrypts the secret of `hf_token_secret_arn`. Null for the account's default key of Secrets Manager, which needs no right of its own; another key without it means that nodes are denied the token."
  type        = string
  default     = null

  validation {
    condition     = var.hf_token_kms_key_arn == null ? true : can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", var.hf_token_kms_key_arn))
    error_message = "hf_token_kms_key_arn is ${jsonencode(var.hf_token_kms_key_arn)}: it must be null, or the ARN of a key (no alias), such as arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab."
  }
}

variable "create_operator_policy" {
  description = <<-EOT
    Whether to make the IAM policy for whoever runs judge-bootstrap: find the nodes, open a session or push an ssh key on these
    and no others, read AppConfig, fill the mirror, read the Hub token's secret. It is attached to nobody; the output `operator_policy_arn` names it.
  EOT
  type        = bool
  default     = true
  nullable    = false
}

variable "mirror" {
  description = <<-EOT
    An S3 bucket that holds the models near the nodes, filled by `judge-bootstrap models mirror`: encrypted, versioned, closed to
    the public, over TLS 1.2 or newer only.

    - `enabled`: make it.
    - `bucket_name`: null for `NAME-mirror-ACCOUNT`. Without dots, which no certificate of S3 matches. A change makes a new, empty bucket.
    - `prefix`: what the models lie below. No more than this and `judge-node/` can be read by nodes.
    - `kms_key_arn`: null encrypts with S3's own key. With a key of KMS every reader must sign, which judge-node does not:
      such a mirror carries `judge_node_program`, but nodes fetch models from the Hub.
    - `force_destroy`: whether a destroy deletes the models, too. False: a bucket with something in it is kept, and the destroy fails.
    - `vpc_endpoint`: make a gateway endpoint of S3 in this VPC, for these route tables. Its policy holds for ALL traffic of those
      subnets to S3: this bucket can be read, images of ECR, Docker Hub and registry.k8s.io, packages of Amazon Linux, and nothing else.
      Whatever else there uses S3 stops working; and a route table takes one such endpoint only.
    - `vpc_endpoint_ids`: gateway endpoints of S3 that exist already, through which nodes read.

    Nodes read models through such an endpoint without credentials, as can everything else in that VPC; with no endpoint they do
    not use the mirror. A first fill of a 7B model costs cents; the storage is about 0.023 USD for a GB and month.
  EOT
  type = object({
    enabled       = optional(bool, false)
    bucket_name   = optional(string)
    prefix        = optional(string, "models")
    kms_key_arn   = optional(string)
    force_destroy = optional(bool, false)
    vpc_endpoint = optional(object({
      vpc_id          = string
      route_table_ids = list(string)
    }))
    vpc_endpoint_ids = optional(list(string), [])
  })
  default  = {}
  nullable = false

  validation {
    condition = var.mirror.bucket_name == null ? true : (
      can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.mirror.bucket_name))
      && !can(regex("^(xn--|sthree-|amzn-s3-demo-)|(-s3alias|--ol-s3|--x-s3|--table-s3)$", var.mirror.bucket_name))
    )
    error_message = "mirror.bucket_name is ${jsonencode(var.mirror.bucket_name)}: it must be null, or 3 to 63 lower-case letters, digits and hyphens, with a letter or digit at either end and none of S3's reserved beginnings and ends."
  }

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9._=-]*(/[A-Za-z0-9][A-Za-z0-9._=-]*)*$", var.mirror.prefix)) && !can(regex("^judge-node(/|$)", var.mirror.prefix))
    error_message = "mirror.prefix is ${jsonencode(var.mirror.prefix)}: it must be one or more names with a single / between them, such as models, and not judge-node, where the program lies."
  }

  validation {
    condition     = var.mirror.kms_key_arn == null ? true : can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", var.mirror.kms_key_arn))
    error_message = "mirror.kms_key_arn is ${jsonencode(var.mirror.kms_key_arn)}: it must be null, or the ARN of a key (no alias), such as arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab."
  }

  validation {
    condition     = var.mirror.vpc_endpoint == null ? true : can(regex("^vpc-[0-9a-f]+$", var.mirror.vpc_endpoint.vpc_id))
    error_message = "mirror.vpc_endpoint.vpc_id is ${jsonencode(try(var.mirror.vpc_endpoint.vpc_id, null))}: it must be the id of a VPC, such as vpc-0a1b2c3d4e5f67890."
  }

  validation {
    condition = var.mirror.vpc_endpoint == null ? true : (
      length(var.mirror.vpc_endpoint.route_table_ids) > 0
      && alltrue([for id in var.mirror.vpc_endpoint.route_table_ids : can(regex("^rtb-[0-9a-f]+$", id))])
    )
    error_message = "mirror.vpc_endpoint.route_table_ids is ${jsonencode(try(var.mirror.vpc_endpoint.route_table_ids, null))}: it must name the route tables of the nodes' subnets, such as rtb-0a1b2c3d4e5f67890."
  }

  validation {
    condition     = alltrue([for id in var.mirror.vpc_endpoint_ids : can(regex("^vpce-[0-9a-f]+$", id))])
    error_message = "mirror.vpc_endpoint_ids is ${jsonencode(var.mirror.vpc_endpoint_ids)}: each must be the id of a gateway endpoint of S3, such as vpce-0a1b2c3d4e5f67890."
  }
}

variable "appconfig" {
  description = <<-EOT
    The settings that judge-bootstrap reads from AWS AppConfig: application, environment and profile, with a JSON Schema by which
    AppConfig refuses what judge-bootstrap would refuse.

    - `enabled`: make them.
    - `application`, `profile`: their names. The environment is called as `environment`, with `-SANDBOX` behind it where there is one.
    - `settings`: the first version of the document, what stands below `judge_inference` in it: any of the sections `model`,
      `storage`, `vllm` and `kubernetes`, with any of their keys (docs/variables.md). Null begins with an empty one, which sets nothing.
      Later versions belong to people: a change here does nothing once the profile exists.
  EOT
  type = object({
    enabled     = optional(bool, false)
    application = optional(string, "judge-bootstrap")
    profile     = optional(string, "judge-inference")
    settings    = optional(any)
  })
  default  = {}
  nullable = false

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", var.appconfig.application))
    error_message = "appconfig.application is ${jsonencode(var.appconfig.application)}: it must have 1 to 64 letters, digits, '_', '.' and '-', with a letter or digit first."
  }

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", var.appconfig.profile))
    error_message = "appconfig.profile is ${jsonencode(var.appconfig.profile)}: it must have 1 to 64 letters, digits, '_', '.' and '-', with a letter or digit first."
  }

  validation {
    condition     = var.appconfig.settings == null ? true : can(keys(var.appconfig.settings))
    error_message = "appconfig.settings is ${try(jsonencode(var.appconfig.settings), "not an object")}: it must be an object of sections, such as { model = { max_model_len = 4096 } }."
  }
}

variable "alarms" {
  description = <<-EOT
    CloudWatch alarms for nodes that fail to become ready: instances that are wanted and not in service, instances whose status
    checks fail, nodes of the cluster that are not ready (which needs Container Insights). About 0.10 USD a month for a metric.

    - `enabled`: make them.
    - `sns_topic_arns`: whom they tell, at their beginning and their end. Empty: they are only seen in the console.
    - `minutes`: how long it may last, 5 to 120. Less than a node takes to boot and join (about 5) makes every scale-up an alarm.
    - `container_insights`: whether the cluster has Container Insights. Without it the third alarm would never see a thing, and is left out.
  EOT
  type = object({
    enabled            = optional(bool, false)
    sns_topic_arns     = optional(list(string), [])
    minutes            = optional(number, 15)
    container_insights = optional(bool, true)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for arn in var.alarms.sns_topic_arns : can(regex("^arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+$", arn))])
    error_message = "alarms.sns_topic_arns is ${jsonencode(var.alarms.sns_topic_arns)}: each must be the ARN of a standard SNS topic, such as arn:aws:sns:us-east-1:111122223333:on-call (CloudWatch tells no FIFO topic)."
  }

  validation {
    condition     = length(var.alarms.sns_topic_arns) <= 5
    error_message = "alarms.sns_topic_arns has ${length(var.alarms.sns_topic_arns)} topics: an alarm takes at most 5."
  }

  validation {
    condition     = floor(var.alarms.minutes) == var.alarms.minutes && var.alarms.minutes >= 5 && var.alarms.minutes <= 120
    error_message = "alarms.minutes is ${jsonencode(var.alarms.minutes)}: it must be a whole number from 5 to 120."
  }
}

variable "warm_pool" {
  description = <<-EOT
    Instances that have booted once and wait beside the group, so that a node comes in about a minute less. Null for none. EKS
    makes it, through the AWS CLI (2.34 or newer) on the machine that runs Terraform, with the credentials that the CLI finds
    there (not the provider's): allow it eks:UpdateNodegroupConfig and eks:DescribeNodegroup. A warm pool that is changed elsewhere is not seen.

    - `pool_state`: `STOPPED` (pays for the root volume only, comes back with blank instance store: needs `nvme_owner = "judge"`)
      or `RUNNING` (pays for the GPU, too).
    - `min_size`: how many wait at least, 0 or more.
    - `max_group_prepared_capacity`: the most instances in pool and group together. Null: the group's `max_size`.
    - `reuse_on_scale_in`: whether nodes go back into the pool instead of ending.
  EOT
  type = object({
    pool_state                  = optional(string, "STOPPED")
    min_size                    = optional(number, 0)
    max_group_prepared_capacity = optional(number)
    reuse_on_scale_in           = optional(bool, false)
  })
  default = null

  validation {
    condition     = try(var.warm_pool.pool_state, "STOPPED") != "HIBERNATED"
    error_message = "warm_pool.pool_state is \"HIBERNATED\": EC2 hibernates none of the instance types with a GPU. Use STOPPED or RUNNING."
  }

  validation {
    condition     = var.warm_pool == null ? true : contains(["STOPPED", "RUNNING", "HIBERNATED"], coalesce(var.warm_pool.pool_state, "null"))
    error_message = "warm_pool.pool_state is ${jsonencode(try(var.warm_pool.pool_state, null))}: it must be STOPPED or RUNNING."
  }

  validation {
    condition     = var.warm_pool == null ? true : floor(var.warm_pool.min_size) == var.warm_pool.min_size && var.warm_pool.min_size >= 0 && var.warm_pool.min_size <= 450
    error_message = "warm_pool.min_size is ${jsonencode(try(var.warm_pool.min_size, null))}: it must be a whole number from 0 to 450."
  }

  validation {
    condition = try(var.warm_pool.max_group_prepared_capacity, null) == null ? true : (
      floor(var.warm_pool.max_group_prepared_capacity) == var.warm_pool.max_group_prepared_capacity
      && var.warm_pool.max_group_prepared_capacity >= 0 && var.warm_pool.max_group_prepared_capacity <= 450
    )
    error_message = "warm_pool.max_group_prepared_capacity is ${jsonencode(try(var.warm_pool.max_group_prepared_capacity, null))}: it must be null, or a whole number from 0 to 450."
  }
}
