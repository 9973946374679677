"""Operations of a model as PyTorch counts them."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from vatt.models import VATT
from vatt.models.sound import log_mel_shape


def count_flops(config, training):
    """Of the forward pass of one clip, the attention in plain matrix products. The meta device computes nothing."""
    spec = config.input
    clips = 2  # batch norm of the head needs more than one in training
    with torch.device("meta"):
        model = VATT(config, backend="torch").train(training)
        video = torch.zeros(clips, spec.frames, spec.size, spec.size, 3, dtype=torch.uint8)
        audio = torch.zeros(clips, spec.samples)
        if config.audio_input == "spectrogram":
            part = config.spectrogram
            shape = part.max_temporal_buckets * part.temporal_patch_size, part.mel_bins
            if config.backbone == "convolutional":
                shape = log_mel_shape(spec, config.resnet)
            audio = torch.zeros(clips, *shape)
        text = torch.ones(clips, spec.candidates if training else 1, spec.words, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(video, audio, text)
    return counter.get_total_flops() / clips
