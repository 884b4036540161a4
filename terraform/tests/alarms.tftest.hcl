mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment  = "prod"
  cluster_name = "judge-prod"
  subnet_ids   = ["subnet-0aaaaaaaaaaaaaaaa", "subnet-0bbbbbbbbbbbbbbbb"]
}

run "by_default_there_are_no_alarms" {
  command = plan

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.missing_nodes) + length(aws_cloudwatch_metric_alarm.status_check) + length(aws_cloudwatch_metric_alarm.failed_nodes) == 0
    error_message = "alarms are made without being asked for"
  }
}

run "three_alarms_tell_the_topic" {
  command = apply

  variables {
    alarms = { enabled = true, sns_topic_arns = ["arn:aws:sns:us-east-1:111122223333:on-call"], minutes = 20 }
  }

  assert {
    condition = alltrue([for alarm in [aws_cloudwatch_metric_alarm.missing_nodes[0], aws_cloudwatch_metric_alarm.status_check[0], aws_cloudwatch_metric_alarm.failed_nodes[0]] : (
      alarm.alarm_actions == toset(var.alarms.sns_topic_arns) && alarm.ok_actions == toset(var.alarms.sns_topic_arns)
      && alarm.evaluation_periods == 20 && startswith(alarm.alarm_name, "judge-prod-ai-")
    )])
    error_message = "an alarm tells nobody, or waits for another time"
  }

  assert {
    condition = (
      { for query in aws_cloudwatch_metric_alarm.missing_nodes[0].metric_query : query.id => one(query.metric).metric_name if length(query.metric) > 0 }
      == { wanted = "GroupDesiredCapacity", serving = "GroupInServiceInstances" }
    )
    error_message = "the numbers that are compared are others"
  }

  assert {
    condition = alltrue([for query in aws_cloudwatch_metric_alarm.missing_nodes[0].metric_query : (
      length(query.metric) == 0 ? query.expression == "wanted - serving" && query.return_data == true : one(query.metric).dimensions == tomap({ AutoScalingGroupName = "eks-judge-prod-ai-1" })
    )])
    error_message = "the numbers are not of the node group's Auto Scaling group"
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.missing_nodes[0].treat_missing_data == "missing" && strcontains(aws_cloudwatch_metric_alarm.missing_nodes[0].alarm_description, "enable-metrics-collection --granularity 1Minute --auto-scaling-group-name eks-judge-prod-ai-1")
    error_message = "without group metrics the alarm looks content, or does not say how to enable them"
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.status_check[0].metric_name == "StatusCheckFailed" && aws_cloudwatch_metric_alarm.status_check[0].namespace == "AWS/EC2"
      && aws_cloudwatch_metric_alarm.status_check[0].dimensions == tomap({ AutoScalingGroupName = "eks-judge-prod-ai-1" })
      && aws_cloudwatch_metric_alarm.status_check[0].treat_missing_data == "notBreaching"
    )
    error_message = "failed status checks are not seen, or a group without nodes is an alarm"
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.failed_nodes[0].metric_name == "cluster_failed_node_count" && aws_cloudwatch_metric_alarm.failed_nodes[0].namespace == "ContainerInsights"
      && aws_cloudwatch_metric_alarm.failed_nodes[0].dimensions == tomap({ ClusterName = "judge-prod" })
      && aws_cloudwatch_metric_alarm.failed_nodes[0].treat_missing_data == "missing"
      && strcontains(aws_cloudwatch_metric_alarm.failed_nodes[0].alarm_description, "amazon-cloudwatch-observability")
    )
    error_message = "nodes that are not ready are not seen, or the alarm does not say what it needs"
  }
}

run "without_container_insights_two" {
  command = plan

  variables {
    alarms = { enabled = true, container_insights = false }
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.failed_nodes) == 0 && length(aws_cloudwatch_metric_alarm.missing_nodes) == 1 && length(aws_cloudwatch_metric_alarm.status_check) == 1
    error_message = "an alarm waits for metrics that nobody sends"
  }
}

run "switched_off_there_are_no_alarms" {
  command = plan

  variables {
    enabled = false
    alarms  = { enabled = true }
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.missing_nodes) + length(aws_cloudwatch_metric_alarm.status_check) + length(aws_cloudwatch_metric_alarm.failed_nodes) == 0
    error_message = "an alarm is left"
  }
}

run "no_fifo_topic" {
  command = plan

  variables {
    alarms = { sns_topic_arns = ["arn:aws:sns:us-east-1:111122223333:on-call.fifo"] }
  }

  expect_failures = [var.alarms]
}

run "at_most_five_topics" {
  command = plan

  variables {
    alarms = { sns_topic_arns = [for number in range(6) : "arn:aws:sns:us-east-1:111122223333:on-call-${number}"] }
  }

  expect_failures = [var.alarms]
}

run "not_sooner_than_a_node_boots" {
  command = plan

  variables {
    alarms = { minutes = 2 }
  }

  expect_failures = [var.alarms]
}
