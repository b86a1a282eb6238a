output "url" {
  description = "Where clients connect; append ?path=/rooms/lobby ."
  value       = aws_apigatewayv2_stage.chat.invoke_url
}
