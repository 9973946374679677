"""The configurations of the jobs, and the named recipes."""
