"""Floating-point operations of a model, counted from its configuration.

Convention: 2 operations a multiply-add, forward pass, one clip. Counted are the matrix products: patch and word
projections, attention projections, MLP, attention scores and their product with the values (2 * N * N * d each, so
4 N^2 d a layer), pre- and post-projections, and the head. Norms, activations and softmax are not. The paper's published
figures count the attention products once (2 N^2 d); ``attention_products=2`` gives them.
"""

from __future__ import annotations

from dataclasses import dataclass

from vatt.models.config import TransformerConfig, VATTConfig

# Dense bf16 peaks of the data sheets, in operations a second, by a part of the name that the driver reports.
_PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}


@dataclass(frozen=True)
class Tokens:
    """Patches or words of one modality, and how many of them DropToken keeps."""

    total: int
    kept: int


def tokens(config: VATTConfig, training: bool = True) -> dict[str, Tokens]:
    """Tokens a clip and modality, without the aggregation token. Text: one sentence."""
    frames, size, samples = config.input.frames, config.input.size, config.input.samples
    if config.backbone == "unified":
        part = config.unified
        video = (frames // part.vid_temporal_patch_size) * (size // part.vid_spatial_patch_size) ** 2
        audio = samples // part.aud_temporal_patch_size
        buckets = {
            "video": part.max_vid_temporal_buckets * part.max_vid_spatial_buckets**2,
            "audio": part.max_aud_temporal_buckets,
        }
        dropping = {"video": part, "audio": part}
    else:
        vid, aud = config.video, config.waveform
        video = (frames // vid.temporal_patch_size) * (size // vid.spatial_patch_size) ** 2
        audio = samples // aud.temporal_patch_size
        buckets = {
            "video": vid.max_temporal_buckets * vid.max_vertical_buckets * vid.max_horizontal_buckets,
            "audio": aud.max_temporal_buckets,
        }
        dropping = {"video": vid, "audio": aud}  # type: ignore[dict-item]
    found = {"text": Tokens(config.input.words, config.input.words)}
    for name, total in (("video", video), ("audio", audio)):
        drop = dropping[name]
        kept = int(drop.patch_sampling_rate * buckets[name]) if training and drop.random_patch_sampling else total
        found[name] = Tokens(total, min(kept, total))
    if config.backbone == "separate" and config.audio_input == "spectrogram":
        spectrogram = config.spectrogram.max_temporal_buckets * config.spectrogram.max_spectoral_buckets
        found["audio"] = Tokens(spectrogram, spectrogram)
    return found


def encoder_flops(n: int, config: TransformerConfig, attention_products: int = 4) -> int:
    """One pass of ``n`` tokens (the aggregation token among them) through a Transformer."""
    inner = config.num_heads * config.d_kv
    projections = 2 * n * config.d_model * 4 * inner
    mlp = 2 * n * 2 * config.d_model * config.d_ff
    return config.num_layers * (projections + mlp + attention_products * n * n * inner)


def forward_flops(config: VATTConfig, training: bool = True, attention_products: int = 4) -> dict[str, int]:
    """Operations of each modality and the head for one clip with its candidate sentences (one in inference)."""
    count = tokens(config, training)
    sentences = config.input.candidates if training else 1
    unified = config.unified if config.backbone == "unified" else None
    found: dict[str, int] = {}
    for name in ("video", "audio", "text"):
        part, values, width, extra = _shape(config, name)
        kept = count[name].kept
        n = kept if name == "text" and config.text.kind == "linear" and not unified else kept + 1
        into = n if name == "text" and not unified else kept  # T5 projects its aggregation token too
        flops = 2 * into * values * width + encoder_flops(n, part, attention_products)
        if extra:  # post-projection, of all tokens
            flops += 2 * n * part.d_model * extra
        if unified and name != "text":  # pre-projection behind the patch projection
            flops += 2 * kept * part.d_model**2
        found[name] = flops * (sentences if name == "text" else 1)
    found["head"] = _head_flops(config, sentences)
    return found


def _shape(config: VATTConfig, name: str) -> tuple[TransformerConfig, int, int, int]:
    """Transformer, values a patch or word, width that they are projected to, width of the post-projection (or 0)."""
    if config.backbone == "unified":
        part = config.unified
        values = {
            "video": part.vid_temporal_patch_size * part.vid_spatial_patch_size**2 * 3,
            "audio": part.aud_temporal_patch_size,
            "text": part.txt_embedding_dim,
        }
        return part, values[name], part.d_model, part.d_post_proj
    if name == "video":
        vid = config.video
        extra = vid.d_post_proj if vid.post_projection else 0
        return vid, vid.temporal_patch_size * vid.spatial_patch_size**2 * 3, vid.d_model, extra
    if name == "audio" and config.audio_input == "spectrogram":
        spec = config.spectrogram
        return spec, spec.temporal_patch_size * spec.spectoral_patch_size, spec.d_model, 0
    if name == "audio":
        aud = config.waveform
        return aud, aud.temporal_patch_size, aud.d_model, aud.d_post_proj if aud.post_projection else 0
    return config.text, config.text.d_embedding, config.text.d_model, 0


def _head_flops(config: VATTConfig, sentences: int) -> int:
    head = config.head
    if config.backbone == "unified":
        video = audio = text = config.unified.d_post_proj
    else:
        audio_part = config.waveform if config.audio_input == "waveform" else config.spectrogram
        video, audio, text = config.video.d_model, audio_part.d_model, config.text.d_model
    if head.kind == "joint":
        return 2 * head.d_va * (video + audio + sentences * text)
    to_va = 2 * head.d_va * (video + head.d_va + audio)
    return to_va + 2 * head.d_vat * (head.d_va + sentences * text)


def train_flops_per_sample(config: VATTConfig) -> float:
    """Forward and backward of one clip: three times the forward pass."""
    return 3.0 * sum(forward_flops(config).values())


def peak_flops(device_name: str) -> float | None:
    """Peak bf16 rate of a GPU by its name (dense, data sheet), or None for one that is not in the table."""
    return next((peak for name, peak in _PEAKS.items() if name in device_name), None)
