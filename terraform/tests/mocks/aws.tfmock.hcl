# What AWS answers of a g5.xlarge (DescribeInstanceTypes); runs that need another type override it.
mock_data "aws_ec2_instance_type" {
  defaults = {
    instance_storage_supported = true
    total_instance_storage     = 250
    instance_disks             = [{ count = 1, size = 250, type = "ssd" }]
    gpus                       = [{ count = 1, manufacturer = "NVIDIA", memory_size = 24576, name = "A10G" }]
    supported_architectures    = ["x86_64"]
    supported_usages_classes   = ["on-demand", "spot"]
  }
}

mock_data "aws_eks_cluster" {
  defaults = {
    vpc_config = [{
      cluster_security_group_id = "sg-0c1a5734aaaaaaaaa"
      endpoint_private_access   = true
      endpoint_public_access    = false
      public_access_cidrs       = []
      security_group_ids        = []
      subnet_ids                = ["subnet-0aaaaaaaaaaaaaaaa"]
      vpc_id                    = "vpc-0aaaaaaaaaaaaaaaa"
    }]
  }
}

mock_data "aws_region" {
  defaults = { id = "us-east-1", name = "us-east-1" }
}

mock_data "aws_partition" {
  defaults = { id = "aws", partition = "aws", dns_suffix = "amazonaws.com" }
}

mock_data "aws_caller_identity" {
  defaults = { id = "111122223333", account_id = "111122223333", arn = "arn:aws:iam::111122223333:root" }
}

mock_data "aws_iam_policy_document" {
  defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
}

# What a mock would invent of these, the provider refuses elsewhere: ids and ARNs have forms.
mock_resource "aws_launch_template" {
  defaults = { id = "lt-0a1b2c3d" }
}

mock_resource "aws_eks_node_group" {
  defaults = { resources = [{ autoscaling_groups = [{ name = "eks-judge-prod-ai-1" }], remote_access_security_group_id = "" }] }
}

mock_resource "aws_iam_role" {
  defaults = { arn = "arn:aws:iam::111122223333:role/judge-prod-ai-1" }
}

mock_resource "aws_appconfig_application" {
  defaults = { id = "app1234" }
}

mock_resource "aws_appconfig_environment" {
  defaults = { environment_id = "env1234" }
}

mock_resource "aws_appconfig_configuration_profile" {
  defaults = { configuration_profile_id = "pro1234" }
}

mock_resource "aws_appconfig_deployment_strategy" {
  defaults = { id = "str1234" }
}
