locals {
  alarms_enabled = local.enabled && var.alarms.enabled
  # EKS makes one Auto Scaling group for a node group.
  alarm_group = one(local.autoscaling_group_names)
}

# What EC2 starts, or cannot start: no capacity of that type, a quota, a launch template or a key that EC2 refuses. It fires
# also where the group has no node yet, because it compares two numbers of the Auto Scaling group.
#
# These metrics exist only once group metrics are enabled on the group, which EKS does not do:
#   aws autoscaling enable-metrics-collection --granularity 1Minute --auto-scaling-group-name NAME
# Until then the alarm is INSUFFICIENT_DATA and not OK, on purpose: a watch that sees nothing must not look content.
resource "aws_cloudwatch_metric_alarm" "missing_nodes" {
  count = local.alarms_enabled ? 1 : 0

  alarm_name        = "${local.name}-nodes-missing"
  alarm_description = "For ${var.alarms.minutes} minutes fewer instances of node group ${local.name} have been in service than are wanted: see the group's activity in EC2 Auto Scaling (capacity, quota, launch template). Needs group metrics: aws autoscaling enable-metrics-collection --granularity 1Minute --auto-scaling-group-name ${local.alarm_group}"
  tags              = local.tags

  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  evaluation_periods  = var.alarms.minutes
  treat_missing_data  = "missing"
  alarm_actions       = var.alarms.sns_topic_arns
  ok_actions          = var.alarms.sns_topic_arns

  metric_query {
    id          = "missing"
    label       = "Instances that are wanted and not in service"
    expression  = "wanted - serving"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = { wanted = "GroupDesiredCapacity", serving = "GroupInServiceInstances" }

    content {
      id = metric_query.key

      metric {
        namespace   = "AWS/AutoScaling"
        metric_name = metric_query.value
        dimensions  = { AutoScalingGroupName = local.alarm_group }
        period      = 60
        stat        = "Average"
      }
    }
  }
}

# Instances that run and answer nothing: the kernel does not boot, the network does not come up. EC2 measures it by itself. No
# data means no instance, which is how a group that scales to zero spends the night: no alarm.
resource "aws_cloudwatch_metric_alarm" "status_check" {
  count = local.alarms_enabled ? 1 : 0

  alarm_name        = "${local.name}-status-check"
  alarm_description = "For ${var.alarms.minutes} minutes an instance of node group ${local.name} has failed EC2's status checks: it will not become ready. aws ec2 describe-instance-status --filters Name=instance-status.status,Values=impaired"
  tags              = local.tags

  namespace           = "AWS/EC2"
  metric_name         = "StatusCheckFailed"
  dimensions          = { AutoScalingGroupName = local.alarm_group }
  statistic           = "Maximum"
  period              = 60
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  evaluation_periods  = var.alarms.minutes
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarms.sns_topic_arns
  ok_actions          = var.alarms.sns_topic_arns
}

# Nodes that joined and are not ready. Container Insights counts them for the whole cluster and not for a node group, so the
# alarm says where to look. It has data only with the add-on amazon-cloudwatch-observability; INSUFFICIENT_DATA says it has not.
resource "aws_cloudwatch_metric_alarm" "failed_nodes" {
  count = local.alarms_enabled && var.alarms.container_insights ? 1 : 0

  alarm_name        = "${local.name}-nodes-not-ready"
  alarm_description = "For ${var.alarms.minutes} minutes a node of cluster ${var.cluster_name} has not been ready, or has reported a bad condition; any node group's. judge-bootstrap --env ${local.inventory_environment} health. Needs Container Insights (EKS add-on amazon-cloudwatch-observability)."
  tags              = local.tags

  namespace           = "ContainerInsights"
  metric_name         = "cluster_failed_node_count"
  dimensions          = { ClusterName = var.cluster_name }
  statistic           = "Maximum"
  period              = 60
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  evaluation_periods  = var.alarms.minutes
  treat_missing_data  = "missing"
  alarm_actions       = var.alarms.sns_topic_arns
  ok_actions          = var.alarms.sns_topic_arns
}
