"""Models on a hub, through ``huggingface_hub``: `remote` reads and writes there, `share` makes the folder that is shared,
`card` its page from the `records` of the run. Nothing is imported here: `vatt.inference` needs `remote` alone."""
