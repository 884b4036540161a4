locals {
  make_node_role = local.enabled && var.node_role_arn == null
  node_role_arn  = local.make_node_role ? aws_iam_role.node[0].arn : var.node_role_arn

  iam_arn     = "arn:${data.aws_partition.current.partition}:iam"
  region      = data.aws_region.current.id
  account_id  = data.aws_caller_identity.current.account_id
  dns_suffix  = data.aws_partition.current.dns_suffix
  cluster_arn = "arn:${data.aws_partition.current.partition}:eks:${local.region}:${local.account_id}:cluster/${var.cluster_name}"

  # The key of a secret is used by Secrets Manager on the reader's behalf, in the secret's region, and in no other way.
  token_statements = [for statement in [
    {
      Sid      = "ReadHubToken"
      Effect   = "Allow"
      Action   = ["secretsmanager:GetSecretValue"]
      Resource = [var.hf_token_secret_arn]
    },
    {
      Sid      = "DecryptHubToken"
      Effect   = "Allow"
      Action   = ["kms:Decrypt"]
      Resource = [var.hf_token_kms_key_arn]
      Condition = {
        StringEquals = { "kms:ViaService" = "secretsmanager.${try(split(":", var.hf_token_secret_arn)[3], "")}.${local.dns_suffix}" }
      }
    },
  ] : statement if var.hf_token_secret_arn != null && statement.Resource[0] != null]

  mirror_node_statements = [for statement in [
    {
      Sid      = "ReadMirror"
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = ["${local.mirror_bucket_arn}/${var.mirror.prefix}/*", "${local.mirror_bucket_arn}/${local.program_prefix}/*"]
    },
    {
      Sid       = "ListMirror"
      Effect    = "Allow"
      Action    = ["s3:ListBucket"]
      Resource  = [local.mirror_bucket_arn]
      Condition = { StringLike = { "s3:prefix" = ["${var.mirror.prefix}/*", "${local.program_prefix}/*"] } }
    },
    {
      Sid       = "DecryptMirror"
      Effect    = "Allow"
      Action    = ["kms:Decrypt"]
      Resource  = [var.mirror.kms_key_arn]
      Condition = { StringEquals = { "kms:ViaService" = "s3.${local.region}.${local.dns_suffix}" } }
    },
  ] : statement if local.mirror_enabled && statement.Resource[0] != null]

  node_statements = concat(local.token_statements, local.mirror_node_statements)
}

resource "aws_iam_role" "node" {
  count = local.make_node_role ? 1 : 0

  # A prefix: role names are the account's, and the same environment may exist in a second region. IAM takes 38 characters.
  name_prefix          = "${trimsuffix(substr(local.name, 0, 37), "-")}-"
  description          = "GPU nodes of judge-bootstrap in ${local.name}"
  permissions_boundary = var.permissions_boundary_arn
  tags                 = local.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "NodesAreInstances"
      Effect    = "Allow"
      Action    = ["sts:AssumeRole"]
      Principal = { Service = "ec2.${local.dns_suffix}" }
    }]
  })
}

# What EKS wants of every node (worker, CNI), images to pull and no more (PullOnly), and the agent behind ssh over SSM.
resource "aws_iam_role_policy_attachment" "node" {
  for_each = local.make_node_role ? toset([
    "AmazonEC2ContainerRegistryPullOnly",
    "AmazonEKSWorkerNodePolicy",
    "AmazonEKS_CNI_Policy",
    "AmazonSSMManagedInstanceCore",
  ]) : toset([])

  role       = aws_iam_role.node[0].name
  policy_arn = "${local.iam_arn}::aws:policy/${each.value}"
}

resource "aws_iam_role_policy" "node" {
  count = local.make_node_role && length(local.node_statements) > 0 ? 1 : 0

  name   = "judge-node"
  role   = aws_iam_role.node[0].name
  policy = jsonencode({ Version = "2012-10-17", Statement = local.node_statements })
}

locals {
  # By the tags of the instance. Without a sandbox, sandboxes' nodes are somebody else's.
  reachable_tags = merge(
    {
      Environment        = local.inventory_environment
      role               = var.node_role_label
      "eks:cluster-name" = var.cluster_name
    },
    var.sandbox == null ? {} : { Sandbox = var.sandbox },
  )
  session_conditions = merge(
    {
      StringEquals = { for key, value in local.reachable_tags : "ssm:resourceTag/${key}" => value }
      # Otherwise a session that names no document is not held against the documents below.
      BoolIfExists = { "ssm:SessionDocumentAccessCheck" = "true" }
    },
    var.sandbox == null ? { Null = { "ssm:resourceTag/Sandbox" = "true" } } : {},
  )
  ssh_key_conditions = merge(
    {
      StringEquals = merge(
        { for key, value in local.reachable_tags : "aws:ResourceTag/${key}" => value },
        { "ec2:osuser" = "ec2-user" },
      )
    },
    var.sandbox == null ? { Null = { "aws:ResourceTag/Sandbox" = "true" } } : {},
  )

  operator_statements = concat(
    [
      {
        # The inventory. EC2 knows no narrower resource for it.
        Sid       = "FindNodes"
        Effect    = "Allow"
        Action    = ["ec2:DescribeInstances"]
        Resource  = ["*"]
        Condition = { StringEquals = { "aws:RequestedRegion" = local.region } }
      },
      {
        # aws eks update-kubeconfig. What may be done in the cluster is for the cluster's access entries to say.
        Sid      = "ReachCluster"
        Effect   = "Allow"
        Action   = ["eks:DescribeCluster"]
        Resource = [local.cluster_arn]
      },
      {
        Sid       = "OpenSessionOnNodes"
        Effect    = "Allow"
        Action    = ["ssm:StartSession"]
        Resource  = ["arn:${data.aws_partition.current.partition}:ec2:${local.region}:${local.account_id}:instance/*"]
        Condition = local.session_conditions
      },
      {
        # ssh through SSM (AWS's own document), and the plain shell (the account's).
        Sid    = "UseSessionDocuments"
        Effect = "Allow"
        Action = ["ssm:StartSession"]
        Resource = [
          "arn:${data.aws_partition.current.partition}:ssm:${local.region}::document/AWS-StartSSHSession",
          "arn:${data.aws_partition.current.partition}:ssm:${local.region}:${local.account_id}:document/SSM-SessionManagerRunShell",
        ]
      },
      {
        # By the tag that Session Manager puts on a session, which fits users and roles alike.
        Sid       = "EndOwnSessions"
        Effect    = "Allow"
        Action    = ["ssm:ResumeSession", "ssm:TerminateSession"]
        Resource  = ["arn:${data.aws_partition.current.partition}:ssm:${local.region}:${local.account_id}:session/*"]
        Condition = { StringLike = { "ssm:resourceTag/aws:ssmmessages:session-id" = ["$${aws:userid}"] } }
      },
      {
        # The key that sshd takes for one minute: nodes have none of their own (EC2 Instance Connect, which the image has).
        Sid       = "PushSshKey"
        Effect    = "Allow"
        Action    = ["ec2-instance-connect:SendSSHPublicKey"]
        Resource  = ["arn:${data.aws_partition.current.partition}:ec2:${local.region}:${local.account_id}:instance/*"]
        Condition = local.ssh_key_conditions
      },
    ],
    [for statement in [
      {
        Sid      = "ReadSettings"
        Effect   = "Allow"
        Action   = ["appconfig:GetLatestConfiguration", "appconfig:StartConfigurationSession"]
        Resource = [local.appconfig_arn]
      },
    ] : statement if local.appconfig_enabled],
    [for statement in [
      {
        # Without a condition on the prefix: HeadBucket has none, and S3 says "no such key" only to who may list.
        Sid      = "ListMirror"
        Effect   = "Allow"
        Action   = ["s3:ListBucket"]
        Resource = [local.mirror_bucket_arn]
      },
      {
        Sid      = "FillMirror"
        Effect   = "Allow"
        Action   = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
        Resource = ["${local.mirror_bucket_arn}/${var.mirror.prefix}/*"]
      },
      {
        # S3 decrypts the parts of an upload to make one object of them.
        Sid       = "EncryptMirror"
        Effect    = "Allow"
        Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource  = [var.mirror.kms_key_arn]
        Condition = { StringEquals = { "kms:ViaService" = "s3.${local.region}.${local.dns_suffix}" } }
      },
    ] : statement if local.mirror_enabled && statement.Resource[0] != null],
    # judge-bootstrap secrets apply --from aws
    local.token_statements,
  )
}

resource "aws_iam_policy" "operator" {
  count = local.enabled && var.create_operator_policy ? 1 : 0

  name_prefix = "${trimsuffix(substr(local.name, 0, 90), "-")}-operator-"
  description = "Run judge-bootstrap against ${local.name}"
  policy      = jsonencode({ Version = "2012-10-17", Statement = local.operator_statements })
  tags        = local.tags
}
