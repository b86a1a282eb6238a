variable "name" {
  description = "What the function, its role and the API are called."
  type        = string
  default     = "strait-chat"
}

variable "package" {
  description = "A zip file that holds the program `bootstrap`."
  type        = string
}

variable "store_url" {
  description = "Where channels and topics are kept, rediss://… ."
  type        = string
  sensitive   = true
}

variable "architecture" {
  description = "x86_64 or arm64, as the program was built."
  type        = string
  default     = "x86_64"
  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "The architecture must be x86_64 or arm64."
  }
}

variable "stage" {
  description = "The API's stage, which is the path that clients connect to."
  type        = string
  default     = "prod"
}

variable "subnet_ids" {
  description = "Private subnets from which the store can be reached; none without a VPC. They need a way to API Gateway and Lambda, see the book."
  type        = list(string)
  default     = []
}

variable "security_group_ids" {
  description = "Security groups of the function in these subnets, needed there."
  type        = list(string)
  default     = []
}

variable "reserved_concurrency" {
  description = "How many instances there may be at once, which bounds the store's connections; -1 reserves none."
  type        = number
  default     = -1
}

variable "throttling_rate" {
  description = "How many messages and handshakes a second the stage takes."
  type        = number
  default     = 10000
}

variable "throttling_burst" {
  description = "How many of them at once."
  type        = number
  default     = 5000
}

variable "log_retention" {
  description = "For how many days logs are kept."
  type        = number
  default     = 14
}
