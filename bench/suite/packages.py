"""Which version of which package a provider is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

_DISTRIBUTIONS = {
    "timm": "timm",
    "transformers": "transformers",
    "open_clip package": "open_clip_torch",
    "liger": "liger-kernel",
    "flash_attn": "flash-attn",
    "flash_attn_4": "flash-attn-4",
    "xformers": "xformers",
}


def package_version(provider: str) -> str | None:
    """Such as "timm 1.0.31"; None for a provider that is ours or PyTorch's."""
    name = provider.partition(",")[0].removesuffix(" apart")
    if name not in _DISTRIBUTIONS:
        return None
    try:
        return f"{_DISTRIBUTIONS[name]} {version(_DISTRIBUTIONS[name])}"
    except PackageNotFoundError:
        return f"{_DISTRIBUTIONS[name]} of unknown version"
