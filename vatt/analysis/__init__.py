"""What a model costs: operations, memory, parameters, and the figures of the paper."""
