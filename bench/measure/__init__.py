"""How things are measured: times, memory, the peaks of a device, and processes that measure for others."""
