"""The configurations of the jobs with their named recipes; sections has what both share."""
