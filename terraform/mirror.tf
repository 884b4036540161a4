locals {
  mirror_enabled = local.enabled && var.mirror.enabled

  # The account's number, because a bucket's name is taken in all of AWS.
  mirror_bucket     = coalesce(var.mirror.bucket_name, "${local.name}-mirror-${local.account_id}")
  mirror_bucket_arn = "arn:${data.aws_partition.current.partition}:s3:::${local.mirror_bucket}"

  # judge-node reads without credentials, through an endpoint that the bucket's policy names. KMS answers nobody without.
  mirror_read_by_nodes = local.mirror_enabled && var.mirror.kms_key_arn == null && (
    var.mirror.vpc_endpoint != null || length(var.mirror.vpc_endpoint_ids) > 0
  )
  mirror = !local.mirror_enabled ? null : {
    bucket = local.mirror_bucket
    prefix = var.mirror.prefix
    s3_url = "s3://${local.mirror_bucket}/${var.mirror.prefix}"
    # Null where nodes cannot read it: then it is no source of theirs.
    https_url = local.mirror_read_by_nodes ? "https://${local.mirror_bucket}.s3.${local.region}.${local.dns_suffix}/${var.mirror.prefix}" : null
  }
}

resource "aws_s3_bucket" "mirror" {
  #checkov:skip=CKV_AWS_18:Nodes read anonymously through one endpoint, so a log names nobody; CloudTrail data events are the account's own choice
  #checkov:skip=CKV_AWS_144:A copy of public models that one command fills again; a second region would have its own mirror near its own nodes
  #checkov:skip=CKV2_AWS_62:Nothing waits for an object: nodes ask by name and check every hash
  count = local.mirror_enabled ? 1 : 0

  bucket        = local.mirror_bucket
  force_destroy = var.mirror.force_destroy
  tags          = local.tags

  lifecycle {
    precondition {
      condition     = length(local.mirror_bucket) <= 63
      error_message = "the mirror's bucket would be called ${local.mirror_bucket}, ${length(local.mirror_bucket)} characters of the 63 that S3 takes: set mirror.bucket_name."
    }
  }
}

resource "aws_s3_bucket_versioning" "mirror" {
  count = local.mirror_enabled ? 1 : 0

  bucket = aws_s3_bucket.mirror[0].id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "mirror" {
  count = local.mirror_enabled ? 1 : 0

  bucket = aws_s3_bucket.mirror[0].id

  rule {
    # One request to KMS for many objects instead of one for each. Means nothing with S3's own key.
    bucket_key_enabled = var.mirror.kms_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.mirror.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.mirror.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "mirror" {
  count = local.mirror_enabled ? 1 : 0

  bucket                  = aws_s3_bucket.mirror[0].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "mirror" {
  count = local.mirror_enabled ? 1 : 0

  bucket = aws_s3_bucket.mirror[0].id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "mirror" {
  count = local.mirror_enabled ? 1 : 0

  bucket = aws_s3_bucket.mirror[0].id

  rule {
    id     = "unfinished-and-overwritten"
    status = "Enabled"

    filter {}

    # S3 keeps the parts of an upload that nobody ends, and charges for them.
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }

    noncurrent_version_expiration {
      noncurrent_days = 30
    }
  }

  depends_on = [aws_s3_bucket_versioning.mirror]
}

locals {
  mirror_reading_endpoints = concat(var.mirror.vpc_endpoint_ids, aws_vpc_endpoint.mirror[*].id)
  mirror_policy_statements = concat(
    [
      {
        Sid       = "DenyWithoutTls"
        Effect    = "Deny"
        Principal = "*"
        Action    = ["s3:*"]
        Resource  = [local.mirror_bucket_arn, "${local.mirror_bucket_arn}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
      {
        Sid       = "DenyOldTls"
        Effect    = "Deny"
        Principal = "*"
        Action    = ["s3:*"]
        Resource  = [local.mirror_bucket_arn, "${local.mirror_bucket_arn}/*"]
        Condition = { NumericLessThan = { "s3:TlsVersion" = "1.2" } }
      },
    ],
    # Not public, by S3's own definition: a policy that names fixed endpoints is none that restrict_public_buckets forbids.
    [for statement in [
      {
        Sid       = "ReadThroughEndpoint"
        Effect    = "Allow"
        Principal = "*"
        Action    = ["s3:GetObject"]
        Resource  = ["${local.mirror_bucket_arn}/${var.mirror.prefix}/*"]
        Condition = { StringEquals = { "aws:SourceVpce" = local.mirror_reading_endpoints } }
      },
    ] : statement if local.mirror_read_by_nodes],
  )
}

resource "aws_s3_bucket_policy" "mirror" {
  count = local.mirror_enabled ? 1 : 0

  bucket = aws_s3_bucket.mirror[0].id
  policy = jsonencode({ Version = "2012-10-17", Statement = local.mirror_policy_statements })

  # S3 refuses two changes of a bucket's access at the same time.
  depends_on = [aws_s3_bucket_public_access_block.mirror]
}

# An endpoint's policy holds for everything that goes from these subnets to S3, whoever sends it: what is not listed here is
# refused, also what the identity and the bucket allow. That is why nobody gets this endpoint without asking for it. The
# buckets of AWS are those without which a node cannot start its pods or keep itself up to date.
resource "aws_vpc_endpoint" "mirror" {
  count = local.mirror_enabled && var.mirror.vpc_endpoint != null ? 1 : 0

  vpc_id            = var.mirror.vpc_endpoint.vpc_id
  route_table_ids   = var.mirror.vpc_endpoint.route_table_ids
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  tags              = merge(local.tags, { Name = "${local.name}-s3" })

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        # Principal "*" and not the node role: models are read without credentials.
        Sid       = "ReadMirror"
        Effect    = "Allow"
        Principal = "*"
        Action    = ["s3:GetObject"]
        Resource  = ["${local.mirror_bucket_arn}/${var.mirror.prefix}/*", "${local.mirror_bucket_arn}/${local.program_prefix}/*"]
      },
      {
        # Layers of images: ECR's (ECR User Guide, "Minimum Amazon S3 bucket permissions for Amazon ECR"), and those of two
        # registries that send clients in AWS to buckets of theirs: registry.k8s.io, which has the cluster-autoscaler
        # (kubernetes/k8s.io #4214), and Docker Hub, which has vLLM (docker/hub-feedback #1318).
        Sid       = "PullImages"
        Effect    = "Allow"
        Principal = "*"
        Action    = ["s3:GetObject"]
        Resource = [
          "arn:${data.aws_partition.current.partition}:s3:::prod-${local.region}-starport-layer-bucket/*",
          "arn:${data.aws_partition.current.partition}:s3:::prod-registry-k8s-io-${local.region}/*",
          "arn:${data.aws_partition.current.partition}:s3:::docker-images-prod/*",
        ]
      },
      {
        # dnf (Amazon Linux 2023 User Guide: the same bucket name, with the region in it, everywhere).
        Sid       = "InstallPackages"
        Effect    = "Allow"
        Principal = "*"
        Action    = ["s3:GetObject"]
        Resource  = ["arn:${data.aws_partition.current.partition}:s3:::al2023-repos-${local.region}-de612dc2/*"]
      },
      {
        # The SSM agent's documents and newer versions of itself (Systems Manager User Guide, "SSM Agent communications").
        Sid       = "UpdateSsmAgent"
        Effect    = "Allow"
        Principal = "*"
        Action    = ["s3:GetObject"]
        Resource = [
          "arn:${data.aws_partition.current.partition}:s3:::amazon-ssm-${local.region}/*",
          "arn:${data.aws_partition.current.partition}:s3:::aws-ssm-${local.region}/*",
        ]
      },
    ]
  })
}

locals {
  program_prefix = "judge-node"
  program_sha256 = var.judge_node_program == null ? null : filesha256(var.judge_node_program)
  # Through the object, so that it is there before a node asks for it. Nodes fetch it with their role: aws s3 cp.
  program_url = length(aws_s3_object.program) == 0 ? null : (
    "s3://${aws_s3_object.program[0].bucket}/${aws_s3_object.program[0].key}"
  )
}

resource "aws_s3_object" "program" {
  count = local.enabled && var.judge_node_program != null ? 1 : 0

  bucket = var.mirror.enabled ? aws_s3_bucket.mirror[0].bucket : local.mirror_bucket
  # Under its own hash: another program is another key, and so another launch template.
  key    = "${local.program_prefix}/${local.program_sha256}/judge-node.pyz"
  source = var.judge_node_program
  tags   = local.tags

  # Encrypted as the bucket says, and not before it says so.
  depends_on = [aws_s3_bucket_server_side_encryption_configuration.mirror, aws_s3_bucket_versioning.mirror]

  lifecycle {
    # While the group rolls, nodes of the old launch template still start.
    create_before_destroy = true

    precondition {
      condition     = var.mirror.enabled
      error_message = "judge_node_program is set and mirror.enabled is false: the program is put into the mirror's bucket. Set mirror = { enabled = true }, or judge_node with an address of your own."
    }
  }
}

check "mirror_is_read" {
  assert {
    condition     = !local.mirror_enabled || local.mirror_read_by_nodes || var.judge_node_program != null
    error_message = "mirror is enabled, and nodes cannot read models from it: ${var.mirror.kms_key_arn != null ? "what a key of KMS encrypts is not given to readers without credentials" : "neither mirror.vpc_endpoint nor mirror.vpc_endpoint_ids names a gateway endpoint of S3"}. They will use the Hub."
  }
}
