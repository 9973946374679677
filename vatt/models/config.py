"""Configuration of the VATT models: one dataclass per part, with the field names of the official configuration.

The names (``d_kv``, ``max_temporal_buckets``, ``spectoral``, ...) are those of the official code
(google-research/vatt/configs), so that its configurations and checkpoints map one to one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from vatt.clip import InputConfig
from vatt.config import Range, Section, show

Width = Annotated[int, Range(1, 16_384)]
Inner = Annotated[int, Range(1, 131_072)]
Layers = Annotated[int, Range(1, 256)]
Heads = Annotated[int, Range(1, 256)]
Buckets = Annotated[int, Range(1, 131_072)]
Words = Annotated[int, Range(2, 10_000_000)]
Rate = Annotated[float, Range(0.0, 0.99)]  # a dropout of 1 leaves nothing
Epsilon = Annotated[float, Range(1e-12, 1.0)]  # variances may be 0
Reach = Annotated[float, Range(0.0, 1000.0)]
Momentum = Annotated[float, Range(0.0, 1.0)]
Weight = Annotated[float, Range(0.0, 1000.0)]


@dataclass
class TransformerConfig(Section):
    """Sizes and rates that every Transformer shares."""

    d_model: Width = 768  # width
    d_kv: Annotated[int, Range(1, 1024)] = 64  # dimensions of one attention head
    d_ff: Inner = 3072  # inner width of the MLP
    num_layers: Layers = 12  # Transformer layers
    num_heads: Heads = 12  # attention heads of a layer
    use_bias: bool = True  # biases in attention and MLP; t5 has none
    pre_norm: bool = True  # norm before attention and MLP; false: after the residual sum
    dropout_rate: Rate = 0.1  # of attention weights, inside the MLP, and of what both add to the residual
    layer_norm_epsilon: Epsilon = 1e-6  # added to the variance
    position_dropout_rate: Rate = 0.1  # after adding positions; the official code fixes it at 0.1


@dataclass
class DropTokenConfig(Section):
    """DropToken (section 3.3). ``patch_sampling_rate`` is the fraction of tokens that is kept."""

    random_patch_sampling: bool = True  # DropToken in training
    patch_sampling_rate: Annotated[float, Range(0, 1, above=True)] = 0.5  # share of the patches that are kept
    sample_per_item: bool = False  # one draw per clip; false: one per batch, as the official code does


@dataclass
class ProjectionConfig(Section):
    """The GELU projections around a Transformer that was (or is to be) taken from a modality-agnostic model."""

    pre_projection: bool = False  # GELU projection of the patches before the Transformer
    post_projection: bool = False  # GELU projection behind the Transformer
    d_post_proj: Width = 1024  # width of the projection behind the Transformer


@dataclass
class VideoConfig(TransformerConfig, DropTokenConfig, ProjectionConfig):
    """Video Transformer (ViT) on voxels of ``temporal_patch_size`` x ``spatial_patch_size`` squared."""

    temporal_patch_size: Annotated[int, Range(1, 1024)] = 4  # frames of a patch
    spatial_patch_size: Annotated[int, Range(1, 1024)] = 16  # height and width of a patch, pixels
    max_temporal_buckets: Buckets = 8  # learned positions in time
    max_vertical_buckets: Buckets = 14  # learned positions from top to bottom
    max_horizontal_buckets: Buckets = 14  # learned positions from left to right


@dataclass
class WaveformConfig(TransformerConfig, DropTokenConfig, ProjectionConfig):
    """Waveform Transformer (WaT)."""

    temporal_patch_size: Annotated[int, Range(1, 65_536)] = 128  # waveform samples of a patch
    max_temporal_buckets: Buckets = 1200  # learned positions in time


@dataclass
class SpectrogramConfig(TransformerConfig, ProjectionConfig):
    """Spectrogram Transformer (SpT): log-mel patches, no DropToken. The model makes them of the waveform."""

    use_bias: bool = False  # biases in attention and MLP
    temporal_patch_size: Annotated[int, Range(1, 4096)] = 16  # time steps of a patch
    spectoral_patch_size: Annotated[int, Range(1, 1024)] = 5  # mel bins of a patch
    max_temporal_buckets: Buckets = 9  # learned positions in time
    max_spectoral_buckets: Annotated[int, Range(1, 1024)] = 16  # learned positions in frequency
    stft_length: Annotated[float, Range(0.0001, 10.0)] = 0.04267  # seconds of a Fourier transform
    stft_step: Annotated[float, Range(0.0001, 10.0)] = 0.02134  # seconds from one Fourier transform to the next

    @property
    def mel_bins(self) -> int:
        """As many as there are positions for: 80."""
        return self.max_spectoral_buckets * self.spectoral_patch_size


@dataclass
class TextConfig(TransformerConfig):
    """Text model. ``kind`` is t5, bert, bert_small (post-norm, with two aggregation tokens) or linear."""

    kind: Literal["t5", "bert", "bert_small", "linear"] = "t5"  # the official code's text models
    vocab_size: Words = 2**16  # words; a run sets it to those of its tokenizer
    d_embedding: Width = 300  # dimensions of a word vector
    trainable_embeddings: bool = False  # train the word vectors; false: frozen, as with word2vec
    embedding_reach: Reach = 0.05  # word vectors begin uniform in +- this; 0.05 is the official code's
    d_model: Width = 512
    d_ff: Inner = 2048
    num_layers: Layers = 6
    num_heads: Heads = 8
    num_relative_buckets: Annotated[int, Range(4, 4096)] = 32  # buckets of t5's relative positions
    max_relative_distance: Annotated[int, Range(2, 1_000_000)] = 64  # words; t5's positions beyond share a bucket
    max_temporal_buckets: Buckets = 16  # learned positions of words (bert, bert_small)

    def __post_init__(self) -> None:
        super().__post_init__()
        exact = self.num_relative_buckets // 4
        if self.kind == "t5" and self.max_relative_distance <= exact:
            raise ValueError(
                f"max_relative_distance: {self.max_relative_distance} must be above {exact}, a quarter of "
                f"num_relative_buckets={self.num_relative_buckets}, which have a distance each"
            )


@dataclass
class UnifiedConfig(TransformerConfig, DropTokenConfig):
    """One shared, modality-agnostic Transformer (VATT-MA) behind tokenisers and projections of each modality."""

    vid_temporal_patch_size: Annotated[int, Range(1, 1024)] = 4  # frames of a video patch
    vid_spatial_patch_size: Annotated[int, Range(1, 1024)] = 16  # height and width of a video patch, pixels
    aud_temporal_patch_size: Annotated[int, Range(1, 65_536)] = 128  # waveform samples of an audio patch
    txt_vocab_size: Words = 2**16  # words; a run sets it to those of its tokenizer
    txt_embedding_dim: Width = 300  # dimensions of a word vector
    txt_embedding_trainable: bool = False  # train the word vectors; false: frozen, as with word2vec
    txt_embedding_reach: Reach = 0.05  # word vectors begin uniform in +- this; 0.05 is the official code's
    max_vid_temporal_buckets: Buckets = 8  # learned positions of video in time
    max_vid_spatial_buckets: Buckets = 14  # learned positions of video, vertical and horizontal
    max_aud_temporal_buckets: Buckets = 1200  # learned positions of audio
    max_txt_temporal_buckets: Buckets = 16  # learned positions of words
    d_post_proj: Width = 1024  # width of the GELU projections behind the Transformer, one per modality


@dataclass
class BatchNormConfig(Section):
    """The batch norm behind each convolution."""

    bn_momentum: Momentum = 0.9  # share of the running statistics that a step keeps
    bn_epsilon: Epsilon = 1e-5  # added to the variance
    sync_bn: bool = True  # batch statistics over all ranks (official: use_xreplica_bn)


@dataclass
class I3DConfig(BatchNormConfig):
    """Inception I3D on pixels: the video network of the convolutional baseline (MMV)."""

    width_divisor: Literal[1, 2, 4, 8] = 1  # of all widths; the official network has 1

    @property
    def width(self) -> int:
        """Dimensions of the features."""
        return 1024 // self.width_divisor


@dataclass
class ResNetConfig(BatchNormConfig):
    """ResNet (2-D, v1.5) on log-mel spectrograms: the audio network of the convolutional baseline (MMV)."""

    depth: Literal[50, 101] = 50  # layers
    width_multiplier: Annotated[float, Range(0.0, 16.0, above=True)] = 1.0  # of 64, 128, 256 and 512 channels
    mel_bins: Annotated[int, Range(1, 1024)] = 80  # of a spectrogram
    stft_length: Annotated[float, Range(0.0001, 10.0)] = 0.04267  # seconds of a Fourier transform
    stft_step: Annotated[float, Range(0.0001, 10.0)] = 0.02134  # seconds from one Fourier transform to the next

    def __post_init__(self) -> None:
        super().__post_init__()
        if int(64 * self.width_multiplier) < 1:
            raise ValueError(f"width_multiplier: {self.width_multiplier:g} of 64 channels leaves none")

    @property
    def width(self) -> int:
        """Dimensions of the features."""
        return 4 * int(512 * self.width_multiplier)


@dataclass
class HeadConfig(Section):
    """Projection to the common space: hierarchical (``fac``, section 3.4) or one space for all (``joint``)."""

    kind: Literal["fac", "joint"] = "fac"  # fac: a video-audio and a video-text space; joint: one space for all
    d_va: Width = 512  # dimensions of the video-audio space
    d_vat: Width = 256  # dimensions of the video-text space; joint: ignored, its one space has d_va
    bn_momentum: Momentum = 0.9  # share of the running statistics that a step keeps
    bn_epsilon: Epsilon = 1e-5  # added to the variance
    sync_bn: bool = True  # batch statistics over all ranks (official: use_xreplica_bn)


@dataclass
class LossConfig(Section):
    """NCE and MIL-NCE (section 3.5) and the weights of the three pairs."""

    kind: Literal["asymmetric", "symmetric"] = "asymmetric"  # softmax over both directions, or a sum of two
    temperature: Annotated[float, Range(0.001, 1000.0)] = 0.07  # divides the similarities
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"  # of products; auto: fp16 in a bf16 run, else fp32
    vid_txt_weight: Weight = 1.0  # video and text; 0 leaves the pair out
    vid_aud_weight: Weight = 1.0  # video and audio; 0 leaves the pair out
    aud_txt_weight: Weight = 0.0  # audio and text; 0 leaves the pair out, above 0 needs the joint head


@dataclass
class VATTConfig(Section):
    """A whole pretraining model. ``backbone`` says whether the sections video, audio, text or ``unified`` are used."""

    name: str = "vatt-base"  # of the model, in logs and folders
    backbone: Literal["separate", "unified", "convolutional"] = "separate"  # a Transformer each; one for all; MMV's
    audio_input: Literal["waveform", "spectrogram"] = "waveform"  # unified: waveform only; convolutional: spectrogram
    input: InputConfig = field(default_factory=InputConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    waveform: WaveformConfig = field(default_factory=WaveformConfig)
    spectrogram: SpectrogramConfig = field(default_factory=SpectrogramConfig)
    text: TextConfig = field(default_factory=TextConfig)
    unified: UnifiedConfig = field(default_factory=UnifiedConfig)
    i3d: I3DConfig = field(default_factory=I3DConfig)
    resnet: ResNetConfig = field(default_factory=ResNetConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        spec, sound, shared = self.input, self.waveform, self.unified
        if self.backbone == "convolutional":
            _refuse_transformers(self, "video", "waveform", "spectrogram", "unified")
            if self.audio_input != "spectrogram":
                raise ValueError("audio_input: the convolutional backbone reads spectrograms, got 'waveform'")
            _check_parameters(self.text.vocab_size * self.text.d_embedding, self.text)
            return
        if self.backbone == "unified":
            encoders: tuple[TransformerConfig, ...] = (shared,)
            words = shared.txt_vocab_size * shared.txt_embedding_dim
            _check_tokens(spec, shared.vid_temporal_patch_size, shared.vid_spatial_patch_size)
            _check_tokens(spec, shared.aud_temporal_patch_size)
        else:
            encoders = (self.video, sound if self.audio_input == "waveform" else self.spectrogram, self.text)
            words = self.text.vocab_size * self.text.d_embedding
            _check_tokens(spec, self.video.temporal_patch_size, self.video.spatial_patch_size)
            if self.audio_input == "waveform":
                _check_tokens(spec, sound.temporal_patch_size)
        _check_parameters(words, *encoders)

    @property
    def feature_widths(self) -> dict[str, int]:
        """Dimensions of the pooled features of "video", "audio" and "text"."""
        if self.backbone == "unified":
            return dict.fromkeys(("video", "audio", "text"), self.unified.d_post_proj)
        if self.backbone == "convolutional":
            return {"video": self.i3d.width, "audio": self.resnet.width, "text": self.text.d_model}
        audio = self.waveform if self.audio_input == "waveform" else self.spectrogram
        widths = {
            name: part.d_post_proj if part.post_projection else part.d_model
            for name, part in (("video", self.video), ("audio", audio))
        }
        return {**widths, "text": self.text.d_model}

    @property
    def vocabulary(self) -> int:
        """Words that have a vector."""
        return self.unified.txt_vocab_size if self.backbone == "unified" else self.text.vocab_size


@dataclass
class ClassifierConfig(Section):
    """A backbone of one modality with a classification layer: what fine-tuning makes.

    A picture is a video whose frames are all alike (section 4.2.3): its model has the modality "video".
    """

    name: str = "vit-base"  # of the model, in logs and folders
    modality: Literal["video", "audio"] = "video"  # an image is a video
    input: InputConfig = field(default_factory=InputConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    waveform: WaveformConfig = field(default_factory=WaveformConfig)
    num_classes: Annotated[int, Range(1, 1_000_000)] = 400  # logits
    classes: list[str] = field(default_factory=list)  # names in the order of the logits; empty: not known
    labels: Literal["single", "multi"] = "single"  # one class per clip, or any number
    dropout: Rate = 0.5  # before the classification layer; official: 0.5 for video, 0 for audio
    network: Literal["transformer", "convolutional"] = "transformer"  # sections video, waveform; or i3d, resnet
    i3d: I3DConfig = field(default_factory=I3DConfig)
    resnet: ResNetConfig = field(default_factory=ResNetConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes and len(self.classes) != self.num_classes:
            raise ValueError(f"classes: {len(self.classes)} names for num_classes={self.num_classes}")
        if twice := [name for name, count in Counter(self.classes).items() if count > 1]:
            raise ValueError(f"classes: {show(twice[0])} stands there twice")

        section = self.backbone
        if isinstance(section, I3DConfig | ResNetConfig):
            _refuse_transformers(self, "video", "waveform")
            return
        _check_tokens(self.input, section.temporal_patch_size, getattr(section, "spatial_patch_size", None))
        _check_parameters(self.num_classes * section.d_model, section)

    @property
    def backbone(self) -> VideoConfig | WaveformConfig | I3DConfig | ResNetConfig:
        """The section of the modality."""
        if self.network == "convolutional":
            return self.i3d if self.modality == "video" else self.resnet
        return self.video if self.modality == "video" else self.waveform


MOST_PARAMETERS, MOST_TOKENS = 100_000_000_000, 65_536
_OF_A_RUN = ("txt_vocab_size",)  # what every run sets, whatever its backbone


def _refuse_transformers(config: Section, *names: str) -> None:
    """Raises ValueError: a setting of a Transformer, such as one of DropToken, was changed where there is none."""
    for name in names:
        section = getattr(config, name)
        for item in fields(section):
            if item.name not in _OF_A_RUN and getattr(section, item.name) != item.default:
                raise ValueError(
                    f"{name}.{item.name}: has no meaning for convolutional networks, which have no Transformer and no "
                    "DropToken; their settings are in i3d and resnet"
                )


def _check_parameters(others: int, *encoders: TransformerConfig) -> None:
    """Before anything is built. Raises ValueError: the large matrices have more numbers than `MOST_PARAMETERS`."""
    layers = (c.num_layers * c.d_model * (4 * c.num_heads * c.d_kv + 2 * c.d_ff) for c in encoders)
    count = others + sum(layers)
    if count > MOST_PARAMETERS:
        raise ValueError(
            f"d_model, d_ff, num_heads, num_layers, vocabulary: {count:,} parameters, {4 * count / 1e9:,.0f} GB; "
            f"at most {MOST_PARAMETERS:,}"
        )


def _check_tokens(spec: InputConfig, temporal: int, spatial: int | None = None) -> None:
    """Raises ValueError: a window of ``spec`` makes more tokens than `MOST_TOKENS`; patches of sound have no width."""
    if spatial is None:
        count, fields = spec.samples // temporal, "input.frames, fps, sample_rate and the temporal patch size of sound"
    else:
        count = (spec.frames // temporal) * (spec.size // spatial) ** 2
        fields = "input.frames, size and the patch sizes of video"
    if count > MOST_TOKENS:
        raise ValueError(f"{fields}: a window makes {count:,} tokens; at most {MOST_TOKENS:,}")


def saved_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a `VATTConfig` or `ClassifierConfig` that was saved as a dictionary means.

    Models that were saved before there was ``input.audio_level`` take sounds as they are; new ones do not.
    """
    spec = values.get("input", {})
    return {**values, "input": {"audio_level": "as_is", **spec} if isinstance(spec, Mapping) else spec}
