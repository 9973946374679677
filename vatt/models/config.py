"""Configuration of the VATT models: one dataclass a part, with the field names of the official configuration.

The names (``d_kv``, ``max_temporal_buckets``, ``spectoral``, ...) are those of the official code
(google-research/vatt/configs), so that its configurations and released weights map one to one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vatt.clip import InputConfig


@dataclass
class TransformerConfig:
    """Sizes and rates that every Transformer shares."""

    d_model: int = 768
    d_kv: int = 64
    d_ff: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    use_bias: bool = True
    pre_norm: bool = True
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    position_dropout_rate: float = 0.1  # after adding positions; the official code fixes it at 0.1


@dataclass
class DropTokenConfig:
    """DropToken (section 3.3). ``patch_sampling_rate`` is the fraction of tokens that is kept."""

    random_patch_sampling: bool = True
    patch_sampling_rate: float = 0.5
    sample_per_item: bool = False  # False: one permutation a batch, as the official code does


@dataclass
class ProjectionConfig:
    """The GELU projections around a Transformer that was (or is to be) taken from a modality-agnostic model."""

    pre_projection: bool = False
    post_projection: bool = False
    d_post_proj: int = 1024


@dataclass
class VideoConfig(TransformerConfig, DropTokenConfig, ProjectionConfig):
    """Video Transformer (ViT) on voxels of ``temporal_patch_size`` x ``spatial_patch_size`` squared."""

    temporal_patch_size: int = 4
    spatial_patch_size: int = 16
    max_temporal_buckets: int = 8
    max_vertical_buckets: int = 14
    max_horizontal_buckets: int = 14


@dataclass
class WaveformConfig(TransformerConfig, DropTokenConfig, ProjectionConfig):
    """Waveform Transformer (WaT)."""

    temporal_patch_size: int = 128
    max_temporal_buckets: int = 1200


@dataclass
class SpectrogramConfig(TransformerConfig, ProjectionConfig):
    """Spectrogram Transformer (SpT): log-mel patches, no DropToken."""

    use_bias: bool = False
    temporal_patch_size: int = 16
    spectoral_patch_size: int = 5
    max_temporal_buckets: int = 9
    max_spectoral_buckets: int = 16


@dataclass
class TextConfig(TransformerConfig):
    """Text model. ``kind`` is t5, bert, bert_small (post-norm, with two aggregation tokens) or linear."""

    kind: Literal["t5", "bert", "bert_small", "linear"] = "t5"
    vocab_size: int = 2**16
    d_embedding: int = 300
    trainable_embeddings: bool = False
    embedding_reach: float = 0.05  # word vectors begin uniform in +- this; 0.05 is the official code's
    d_model: int = 512
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    num_relative_buckets: int = 32
    max_relative_distance: int = 64
    max_temporal_buckets: int = 16


@dataclass
class UnifiedConfig(TransformerConfig, DropTokenConfig):
    """One shared, modality-agnostic Transformer (VATT-MA) behind tokenisers and projections of each modality."""

    vid_temporal_patch_size: int = 4
    vid_spatial_patch_size: int = 16
    aud_temporal_patch_size: int = 128
    txt_vocab_size: int = 2**16
    txt_embedding_dim: int = 300
    txt_embedding_trainable: bool = False
    txt_embedding_reach: float = 0.05  # word vectors begin uniform in +- this; 0.05 is the official code's
    max_vid_temporal_buckets: int = 8
    max_vid_spatial_buckets: int = 14
    max_aud_temporal_buckets: int = 1200
    max_txt_temporal_buckets: int = 16
    d_post_proj: int = 1024


@dataclass
class HeadConfig:
    """Projection to the common space: hierarchical (``fac``, section 3.4) or one space for all (``joint``)."""

    kind: Literal["fac", "joint"] = "fac"
    d_va: int = 512
    d_vat: int = 256  # joint: the one space has d_va dimensions and this is ignored
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    sync_bn: bool = True  # batch statistics over all ranks (official: use_xreplica_bn)


@dataclass
class LossConfig:
    """NCE and MIL-NCE (section 3.5) and the weights of the three pairs."""

    kind: Literal["asymmetric", "symmetric"] = "asymmetric"
    temperature: float = 0.07
    vid_txt_weight: float = 1.0
    vid_aud_weight: float = 1.0
    aud_txt_weight: float = 0.0


@dataclass
class VATTConfig:
    """A whole pretraining model. ``backbone`` says whether the sections video, audio, text or ``unified`` are used."""

    name: str = "vatt-base"
    backbone: Literal["separate", "unified"] = "separate"
    audio_input: Literal["waveform", "spectrogram"] = "waveform"
    input: InputConfig = field(default_factory=InputConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    waveform: WaveformConfig = field(default_factory=WaveformConfig)
    spectrogram: SpectrogramConfig = field(default_factory=SpectrogramConfig)
    text: TextConfig = field(default_factory=TextConfig)
    unified: UnifiedConfig = field(default_factory=UnifiedConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)


@dataclass
class ClassifierConfig:
    """A backbone of one modality with a classification layer: what fine-tuning makes.

    A picture is a video whose frames are all alike (section 4.2.3): its model has the modality "video".
    """

    name: str = "vit-base"
    modality: Literal["video", "audio"] = "video"
    input: InputConfig = field(default_factory=InputConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    waveform: WaveformConfig = field(default_factory=WaveformConfig)
    num_classes: int = 400
    classes: list[str] = field(default_factory=list)  # names in the order of the logits; empty: not known
    labels: Literal["single", "multi"] = "single"  # one class a sample, or any number
    dropout: float = 0.5  # before the classification layer; the official rates: 0.5 for video, 0 for audio

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes: {self.num_classes} must be 1 or more")
        if self.classes and len(self.classes) != self.num_classes:
            raise ValueError(f"classes: {len(self.classes)} names for num_classes={self.num_classes}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: {self.dropout} must be in [0, 1)")

    @property
    def backbone(self) -> VideoConfig | WaveformConfig:
        """The section of the modality."""
        return self.video if self.modality == "video" else self.waveform
