"""What must hold before a time counts: results within their bounds, and kernels that compile to what they should."""
