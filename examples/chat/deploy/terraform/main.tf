# The chat as a Lambda function behind an API Gateway WebSocket API.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.26, < 7.0"
    }
  }
}

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
data "aws_region" "this" {}

locals {
  account = data.aws_caller_identity.this.account_id
  aws     = data.aws_partition.this.partition
  region  = data.aws_region.this.id
  api_arn = "arn:${local.aws}:execute-api:${local.region}:${local.account}:${aws_apigatewayv2_api.chat.id}"
}

resource "aws_lambda_function" "chat" {
  function_name    = var.name
  filename         = var.package
  source_code_hash = filebase64sha256(var.package)
  handler          = "bootstrap"
  runtime          = "provided.al2023"
  architectures    = [var.architecture]
  memory_size      = 256
  # Longer than a handler's limit, and than a lease's term and a sweep.
  timeout = 40
  role    = aws_iam_role.chat.arn
  # -1 reserves none.
  reserved_concurrent_executions = var.reserved_concurrency

  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.chat.name
  }

  environment {
    variables = { CHAT_STORE = var.store_url }
  }

  dynamic "vpc_config" {
    for_each = length(var.subnet_ids) > 0 ? [true] : []
    content {
      subnet_ids         = var.subnet_ids
      security_group_ids = var.security_group_ids
    }
  }

  lifecycle {
    precondition {
      condition     = length(var.subnet_ids) == 0 || length(var.security_group_ids) > 0
      error_message = "A function in subnets needs security_group_ids, too."
    }
  }

  # The role can write the log, and live in the VPC, before the function first runs.
  depends_on = [
    aws_iam_role_policy.chat,
    aws_iam_role_policy_attachment.log,
    aws_iam_role_policy_attachment.vpc,
  ]
}

resource "aws_cloudwatch_log_group" "chat" {
  name              = "/aws/lambda/${var.name}"
  retention_in_days = var.log_retention
}

# What invokes asynchronously, the function itself and the schedule, is tried again; what fails for good goes here.
resource "aws_sqs_queue" "failures" {
  name                      = "${var.name}-failures"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

resource "aws_lambda_function_event_invoke_config" "chat" {
  function_name = aws_lambda_function.chat.function_name

  destination_config {
    on_failure {
      destination = aws_sqs_queue.failures.arn
    }
  }

  depends_on = [aws_iam_role_policy.chat]
}

resource "aws_apigatewayv2_api" "chat" {
  name          = var.name
  protocol_type = "WEBSOCKET"
  # All messages go to $default: the function routes them.
  route_selection_expression = "$request.body.action"
}

resource "aws_apigatewayv2_integration" "chat" {
  api_id           = aws_apigatewayv2_api.chat.id
  integration_type = "AWS_PROXY"
  integration_uri  = aws_lambda_function.chat.invoke_arn
}

resource "aws_apigatewayv2_route" "chat" {
  for_each  = toset(["$connect", "$default", "$disconnect"])
  api_id    = aws_apigatewayv2_api.chat.id
  route_key = each.key
  target    = "integrations/${aws_apigatewayv2_integration.chat.id}"
}

resource "aws_apigatewayv2_stage" "chat" {
  api_id      = aws_apigatewayv2_api.chat.id
  name        = var.stage
  auto_deploy = true
  depends_on  = [aws_apigatewayv2_route.chat]

  default_route_settings {
    throttling_burst_limit = var.throttling_burst
    throttling_rate_limit  = var.throttling_rate
  }
}

resource "aws_lambda_permission" "api" {
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.chat.function_name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${local.api_arn}/*"
}

# Ends channels whose connection is gone without a word.
resource "aws_cloudwatch_event_rule" "janitor" {
  name                = "${var.name}-janitor"
  schedule_expression = "rate(5 minutes)"
}

resource "aws_cloudwatch_event_target" "janitor" {
  rule = aws_cloudwatch_event_rule.janitor.name
  arn  = aws_lambda_function.chat.arn
}

resource "aws_lambda_permission" "janitor" {
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.chat.function_name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.janitor.arn
}
