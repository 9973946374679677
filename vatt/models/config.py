"""Configuration of the VATT models: one dataclass per part, with the field names of the official configuration.

The names (``d_kv``, ``max_temporal_buckets``, ``spectoral``, ...) are those of the official code
(google-research/vatt/configs), so that its configurations and checkpoints map one to one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vatt.clip import InputConfig


@dataclass
class TransformerConfig:
    """Sizes and rates that every Transformer shares."""

    d_model: int = 768  # width
    d_kv: int = 64  # dimensions of one attention head
    d_ff: int = 3072  # inner width of the MLP
    num_layers: int = 12  # Transformer layers
    num_heads: int = 12  # attention heads of a layer
    use_bias: bool = True  # biases in attention and MLP; t5 has none
    pre_norm: bool = True  # norm before attention and MLP; false: after the residual sum
    dropout_rate: float = 0.1  # of attention weights, inside the MLP, and of what both add to the residual
    layer_norm_epsilon: float = 1e-6  # added to the variance
    position_dropout_rate: float = 0.1  # after adding positions; the official code fixes it at 0.1

    def __post_init__(self) -> None:
        for name in ("dropout_rate", "position_dropout_rate"):
            if not 0 <= (rate := getattr(self, name)) <= 1:
                raise ValueError(f"{name}: must be in [0, 1], got {rate}")


@dataclass
class DropTokenConfig:
    """DropToken (section 3.3). ``patch_sampling_rate`` is the fraction of tokens that is kept."""

    random_patch_sampling: bool = True  # DropToken in training
    patch_sampling_rate: float = 0.5  # share of the patches that are kept
    sample_per_item: bool = False  # one draw per clip; false: one per batch, as the official code does


@dataclass
class ProjectionConfig:
    """The GELU projections around a Transformer that was (or is to be) taken from a modality-agnostic model."""

    pre_projection: bool = False  # GELU projection of the patches before the Transformer
    post_projection: bool = False  # GELU projection behind the Transformer
    d_post_proj: int = 1024  # width of the projection behind the Transformer


@dataclass
class VideoConfig(TransformerConfig, DropTokenConfig, ProjectionConfig):
    """Video Transformer (ViT) on voxels of ``temporal_patch_size`` x ``spatial_patch_size`` squared."""

    temporal_patch_size: int = 4  # frames of a patch
    spatial_patch_size: int = 16  # height and width of a patch, pixels
    max_temporal_buckets: int = 8  # learned positions in time
    max_vertical_buckets: int = 14  # learned positions from top to bottom
    max_horizontal_buckets: int = 14  # learned positions from left to right


@dataclass
class WaveformConfig(TransformerConfig, DropTokenConfig, ProjectionConfig):
    """Waveform Transformer (WaT)."""

    temporal_patch_size: int = 128  # waveform samples of a patch
    max_temporal_buckets: int = 1200  # learned positions in time


@dataclass
class SpectrogramConfig(TransformerConfig, ProjectionConfig):
    """Spectrogram Transformer (SpT): log-mel patches, no DropToken. The model makes them of the waveform."""

    use_bias: bool = False  # biases in attention and MLP
    temporal_patch_size: int = 16  # time steps of a patch
    spectoral_patch_size: int = 5  # mel bins of a patch
    max_temporal_buckets: int = 9  # learned positions in time
    max_spectoral_buckets: int = 16  # learned positions in frequency
    stft_length: float = 0.04267  # seconds of a Fourier transform
    stft_step: float = 0.02134  # seconds from one Fourier transform to the next

    @property
    def mel_bins(self) -> int:
        """As many as there are positions for: 80."""
        return self.max_spectoral_buckets * self.spectoral_patch_size


@dataclass
class TextConfig(TransformerConfig):
    """Text model. ``kind`` is t5, bert, bert_small (post-norm, with two aggregation tokens) or linear."""

    kind: Literal["t5", "bert", "bert_small", "linear"] = "t5"  # the official code's text models
    vocab_size: int = 2**16  # words; a run sets it to those of its tokenizer
    d_embedding: int = 300  # dimensions of a word vector
    trainable_embeddings: bool = False  # train the word vectors; false: frozen, as with word2vec
    embedding_reach: float = 0.05  # word vectors begin uniform in +- this; 0.05 is the official code's
    d_model: int = 512
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    num_relative_buckets: int = 32  # buckets of t5's relative positions
    max_relative_distance: int = 64  # words; t5's relative positions beyond it share a bucket
    max_temporal_buckets: int = 16  # learned positions of words (bert, bert_small)


@dataclass
class UnifiedConfig(TransformerConfig, DropTokenConfig):
    """One shared, modality-agnostic Transformer (VATT-MA) behind tokenisers and projections of each modality."""

    vid_temporal_patch_size: int = 4  # frames of a video patch
    vid_spatial_patch_size: int = 16  # height and width of a video patch, pixels
    aud_temporal_patch_size: int = 128  # waveform samples of an audio patch
    txt_vocab_size: int = 2**16  # words; a run sets it to those of its tokenizer
    txt_embedding_dim: int = 300  # dimensions of a word vector
    txt_embedding_trainable: bool = False  # train the word vectors; false: frozen, as with word2vec
    txt_embedding_reach: float = 0.05  # word vectors begin uniform in +- this; 0.05 is the official code's
    max_vid_temporal_buckets: int = 8  # learned positions of video in time
    max_vid_spatial_buckets: int = 14  # learned positions of video, vertical and horizontal
    max_aud_temporal_buckets: int = 1200  # learned positions of audio
    max_txt_temporal_buckets: int = 16  # learned positions of words
    d_post_proj: int = 1024  # width of the GELU projections behind the Transformer, one per modality


@dataclass
class HeadConfig:
    """Projection to the common space: hierarchical (``fac``, section 3.4) or one space for all (``joint``)."""

    kind: Literal["fac", "joint"] = "fac"  # fac: a video-audio and a video-text space; joint: one space for all
    d_va: int = 512  # dimensions of the video-audio space
    d_vat: int = 256  # dimensions of the video-text space; joint: ignored, its one space has d_va
    bn_momentum: float = 0.9  # share of the running statistics that a step keeps
    bn_epsilon: float = 1e-5  # added to the variance
    sync_bn: bool = True  # batch statistics over all ranks (official: use_xreplica_bn)


@dataclass
class LossConfig:
    """NCE and MIL-NCE (section 3.5) and the weights of the three pairs."""

    kind: Literal["asymmetric", "symmetric"] = "asymmetric"  # softmax over both directions, or a sum of two
    temperature: float = 0.07  # divides the similarities
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"  # of products; auto: fp16 in a bf16 run, else fp32
    vid_txt_weight: float = 1.0  # video and text; 0 leaves the pair out
    vid_aud_weight: float = 1.0  # video and audio; 0 leaves the pair out
    aud_txt_weight: float = 0.0  # audio and text; 0 leaves the pair out, above 0 needs the joint head


@dataclass
class VATTConfig:
    """A whole pretraining model. ``backbone`` says whether the sections video, audio, text or ``unified`` are used."""

    name: str = "vatt-base"  # of the model, in logs and folders
    backbone: Literal["separate", "unified"] = "separate"  # one Transformer per modality, or one for all (VATT-MA)
    audio_input: Literal["waveform", "spectrogram"] = "waveform"  # spectrogram: with separate backbones only
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

    name: str = "vit-base"  # of the model, in logs and folders
    modality: Literal["video", "audio"] = "video"  # an image is a video
    input: InputConfig = field(default_factory=InputConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    waveform: WaveformConfig = field(default_factory=WaveformConfig)
    num_classes: int = 400  # logits
    classes: list[str] = field(default_factory=list)  # names in the order of the logits; empty: not known
    labels: Literal["single", "multi"] = "single"  # one class per clip, or any number
    dropout: float = 0.5  # before the classification layer; official: 0.5 for video, 0 for audio

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


def saved_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a `VATTConfig` or `ClassifierConfig` that was saved as a dictionary means.

    Models that were saved before there was ``input.audio_level`` take sounds as they are; new ones do not.
    """
    spec = values.get("input", {})
    return {**values, "input": {"audio_level": "as_is", **spec} if isinstance(spec, Mapping) else spec}
