"""Models on a hub, through ``huggingface_hub``: `remote` reads and writes there, `share` collects what is sent, and
`card` writes its page from the `records` of the run.

Nothing is imported here: `vatt.inference` needs `remote` alone.
"""
