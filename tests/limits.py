"""How long a test waits for a process or an event before it calls it a hang."""

HANG = 1200.0  # seconds. Never a claim about speed: on a loaded machine a step of seconds takes minutes.
