"""What a model costs: parameters, operations, memory and time, counted from its configuration."""
