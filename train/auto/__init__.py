"""``--config auto``: what the recipes of both jobs are chosen by, and rules that they share."""
