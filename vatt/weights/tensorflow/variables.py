"""TensorFlow's variables and our tensors: which tensor holds each variable, in which layout; weights in, gradients out.

`variables` walks a module of ours and lists every variable of the official code by its object-graph path, relative to
the module. `from_checkpoint` cuts a checkpoint's keys down to such paths, `for_backbone` picks one backbone out of a
pretraining checkpoint, and `load_variables` fills a module, accounting for every variable.

Layouts: a Keras dense kernel is (in, out) and ours (out, in); a convolution kernel is (*sides, in, out), and ours (out,
in, *sides) in a convolutional network, (out, patch * channels) where it makes patches; q, k and v are three variables
there and one fused tensor here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vatt.models.backbones import Backbone
from vatt.models.classifier import Classifier
from vatt.models.heads import BatchNorm, FACHead, JointHead, ReluDenseBN
from vatt.models.layers import MLP, Attention, Dense
from vatt.models.mmv import I3D, ConvBackbone, ResNet
from vatt.models.mmv.layers import ConvUnit
from vatt.models.mmv.resnet import Bottleneck
from vatt.models.positions import Positions, SpectrogramPositions, resample
from vatt.models.text import TextBackbone
from vatt.models.tokens import PatchTokens
from vatt.models.transformer import Encoder, EncoderLayer
from vatt.models.unified import UnifiedBackbone
from vatt.models.vatt import VATT
from vatt.objectives.pretraining import Pretraining
from vatt.weights.tensorflow.table import TensorFlowError

_ROOT = "model/layer_with_weights-0/"
LEAF = "/.ATTRIBUTES/VARIABLE_VALUE"
SLOT = "/.OPTIMIZER_SLOT/"


@dataclass(frozen=True)
class Variable:
    """One variable: which tensor of ours holds it, and how.

    ``shape`` is TensorFlow's. ``dense`` means that our tensor is the transpose of TensorFlow's array with all axes but
    the last flattened. ``convolution``: our axes in the order (2, ..., 1, 0) are TensorFlow's. ``part`` = (i, n): it
    is the i-th of n equal blocks of rows of our tensor.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    dense: bool = False
    part: tuple[int, int] = (0, 1)
    is_position_table: bool = False
    convolution: bool = False

    def rows(self, tensor: Tensor) -> Tensor:
        """The block of ``tensor``, of the same shape as ours, that belongs to this variable."""
        return tensor.chunk(self.part[1])[self.part[0]]

    def to_tensorflow(self, tensor: Tensor) -> np.ndarray:
        """Our tensor (or its gradient) in TensorFlow's layout, float32."""
        block = self.rows(tensor.detach()).to(torch.float32)
        if self.convolution:
            block = block.permute(*range(2, block.ndim), 1, 0)
        return (block.t() if self.dense else block).reshape(self.shape).cpu().numpy()

    def store(self, array: Tensor) -> None:
        """Writes an array of TensorFlow's layout into our tensor."""
        value = array.reshape(-1, array.shape[-1]).t() if self.dense else array
        if self.convolution:
            value = array.permute(-1, -2, *range(array.ndim - 2))
        with torch.no_grad():
            self.rows(self.tensor).copy_(value)


Items = Iterator[tuple[str, Variable]]


def variables(module: nn.Module) -> dict[str, Variable]:
    """Every variable of ``module``, by its path.

    Raises:
        TensorFlowError: the official code has no counterpart of this module.
    """
    for cls, walk in _WALKS.items():
        if isinstance(module, cls):
            return dict(walk(module))
    raise TensorFlowError(f"{type(module).__name__} has no official counterpart")


def load_variables(module: nn.Module, arrays: Mapping[str, Any], *, resample_positions: bool = False) -> None:
    """Fills all parameters and running statistics of ``module`` from variables of the official code.

    Args:
        module: a backbone, head, `VATT`, `Pretraining` or `Classifier`.
        arrays: object-graph path relative to the module -> array.
        resample_positions: resample position tables of another length, as the official restore does.

    Raises:
        TensorFlowError: a variable is missing or left over, or its shape differs; nothing was written then.
    """
    wanted = variables(module)
    missing, unused = sorted(wanted.keys() - arrays.keys()), sorted(arrays.keys() - wanted.keys())
    if missing or unused:
        raise TensorFlowError(f"missing variables: {missing}; unused variables: {unused}")
    values = {path: _fitted(path, variable, arrays[path], resample_positions) for path, variable in wanted.items()}
    for path, variable in wanted.items():
        variable.store(values[path])


def _fitted(path: str, variable: Variable, array: Any, resample_positions: bool) -> Tensor:
    value = torch.as_tensor(np.asarray(array))
    tables = variable.is_position_table and value.ndim == 2 and value.shape[1] == variable.shape[1]
    if resample_positions and tables:
        value = resample(value, variable.shape[0])
    if tuple(value.shape) != variable.shape:
        raise TensorFlowError(f"{path}: official shape {tuple(value.shape)}, this module needs {variable.shape}")
    return value


def gradients(module: nn.Module) -> dict[str, np.ndarray]:
    """Gradients of the parameters of ``module`` that have one, in TensorFlow's layout, by path."""
    grads = {id(p): p.grad for p in module.parameters() if p.grad is not None}
    return {
        path: variable.to_tensorflow(grads[id(variable.tensor)])
        for path, variable in variables(module).items()
        if id(variable.tensor) in grads
    }


def from_checkpoint(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The model variables of a checkpoint, by path; optimizer slots and counters are left out."""
    return {
        key.removeprefix(_ROOT).removesuffix(LEAF): value
        for key, value in arrays.items()
        if key.startswith(_ROOT) and key.endswith(LEAF) and SLOT not in key
    }


def for_backbone(arrays: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """The variables of one backbone out of a pretraining checkpoint, as the standalone backbone names them.

    Args:
        arrays: path -> array, from `from_checkpoint`, of separate or unified backbones.
        modality: "video", "audio", or (separate backbones) "text".

    Raises:
        TensorFlowError: the checkpoint has no such backbone.
    """
    short = {"video": "vid", "audio": "aud", "text": "txt"}[modality]
    unified = "_base_layer/unified_backbone/unified_transformer/"
    separate = f"_base_layer/{short}_backbone/" + ("" if modality == "text" else "_base/")
    found = {path.removeprefix(separate): array for path, array in arrays.items() if path.startswith(separate)}
    if modality != "text":
        patches = "voxel_to_patch" if modality == "video" else "wave_to_patch"
        renames = {
            f"{short}_agg_embedding": "agg_embedding",
            f"raw_to_embeddings/{modality}/": f"{patches}/",
            f"pre_proj/{modality}/": "pre_proj/",
            f"post_proj/{modality}/": "post_proj/",
            f"pos_embedding_lookup/{modality}/": "pos_embedding_lookup/",
            "tx/": "tx/",
        }
        for path, array in arrays.items():
            inner = path.removeprefix(unified)
            for prefix, new in renames.items():
                if path.startswith(unified) and inner.startswith(prefix):
                    found[new + inner.removeprefix(prefix)] = array
    if not found:
        raise TensorFlowError(f"no {modality} backbone among {len(arrays)} variables")
    return found


def _under(prefix: str, items: Items) -> Items:
    for path, variable in items:
        yield f"{prefix}/{path}", variable


def _plain(name: str, tensor: Tensor | None) -> Items:
    if tensor is not None:
        yield name, Variable(tensor, tuple(tensor.shape))


def _kernel(name: str, weight: Tensor, bias: Tensor | None, part: tuple[int, int] = (0, 1)) -> Items:
    """A dense kernel and its bias; ``part`` of a fused pair."""
    out = weight.shape[0] // part[1]
    yield f"{name}/kernel", Variable(weight, (weight.shape[1], out), dense=True, part=part)
    if bias is not None:
        yield f"{name}/bias", Variable(bias, (out,), part=part)


def _dense(name: str, module: Dense) -> Items:
    return _kernel(name, module.weight, module.bias)


def _norm(name: str, module: nn.Module) -> Items:
    weight, bias = module.get_parameter("weight"), getattr(module, "bias", None)
    yield from _plain(f"{name}/weight" if bias is None else f"{name}/gamma", weight)
    yield from _plain(f"{name}/beta", bias)


def _positions(module: Positions) -> Items:
    for axis in module.axes:
        table = module.get_parameter(axis)
        yield (
            f"{axis}_position_embeddings/embeddings",
            Variable(table, tuple(table.shape), is_position_table=True),
        )
    yield from _plain("layernorm/gamma", module.norm_weight)
    yield from _plain("layernorm/beta", module.norm_bias)


def _patches(name: str, module: PatchTokens) -> Items:
    channels = max(module.channels, 1)
    shape = (*module.patch, channels, module.weight.shape[0])
    yield f"{name}/kernel", Variable(module.weight, shape, dense=True)
    yield from _plain(f"{name}/bias", module.bias)


def _attention(name: str, module: Attention) -> Items:
    for i, letter in enumerate("qkv"):
        yield from _kernel(f"{name}/{letter}", module.qkv_weight, module.qkv_bias, (i, 3))
    yield from _kernel(f"{name}/o", module.out_weight, module.out_bias)


def _mlp(name: str, module: MLP) -> Items:
    yield from _kernel(f"{name}/wi", module.in_weight, module.in_bias)
    yield from _kernel(f"{name}/wo", module.out_weight, module.out_bias)


def _layer(module: EncoderLayer, t5: bool) -> Items:
    yield from _norm("self_attention/layer_norm" if t5 else "layer_norm", module.attention_norm)
    yield from _attention("self_attention/attention" if t5 else "mha", module.attention)
    yield from _norm("feed_forward/layer_norm", module.mlp_norm)
    yield from _mlp("feed_forward/mlp", module.mlp)


def _encoder(module: Encoder) -> Items:
    t5 = module.relative_bias is not None
    for i, layer in enumerate(module.layers):
        assert isinstance(layer, EncoderLayer)
        yield from _under(f"layers/{i}", _layer(layer, t5))
    if module.relative_bias is not None:
        path = "layers/0/self_attention/attention/relative_attention_bias/embeddings"
        yield from _plain(path, module.relative_bias.table)
    if module.final_norm is not None:
        yield from _norm("final_layer_norm", module.final_norm)


def _backbone(module: Backbone) -> Items:
    tokens = module.tokens
    if isinstance(tokens.positions, SpectrogramPositions):
        name = "spectrum_to_patch"
    else:
        name = "voxel_to_patch" if len(tokens.patch) == 3 else "wave_to_patch"
    yield from _plain("agg_embedding", tokens.agg_token)
    yield from _patches(name, tokens)
    if tokens.pre_projection is not None:
        yield from _dense("pre_proj", tokens.pre_projection)
    yield from _under("pos_embedding_lookup", _positions(tokens.positions))
    yield from _under("tx", _encoder(module.encoder))
    if module.post_projection is not None:
        yield from _dense("post_proj", module.post_projection)


def _text(module: TextBackbone) -> Items:
    yield from _plain("embedding/embeddings", module.embedding.weight)
    if module.linear is not None:
        shape = (1, module.linear.weight.shape[1], module.linear.weight.shape[0])
        yield "base_lm/conv1d/kernel", Variable(module.linear.weight, shape, dense=True)
        yield from _plain("base_lm/conv1d/bias", module.linear.bias)
        return
    if module.agg_token is not None:
        yield from _plain("agg_embedding", module.agg_token.weight)
    yield from _dense("pre_proj", module.pre_projection)
    if module.positions is None or module.encoder_agg_token is None:
        yield from _under("base_lm", _encoder(module.encoder))
        return
    yield from _plain("base_lm/agg_embedding", module.encoder_agg_token.weight)
    yield from _under("base_lm/pos_embedding_lookup", _positions(module.positions))
    yield from _under("base_lm/tx", _encoder(module.encoder))


def _unified(module: UnifiedBackbone) -> Items:
    for modality, tokens in (("video", module.video_tokens), ("audio", module.audio_tokens)):
        yield from _plain(f"{modality[:3]}_agg_embedding", tokens.agg_token)
        yield from _patches(f"raw_to_embeddings/{modality}", tokens)
        assert tokens.pre_projection is not None
        yield from _dense(f"pre_proj/{modality}", tokens.pre_projection)
        yield from _under(f"pos_embedding_lookup/{modality}", _positions(tokens.positions))
    text = module.text_tokens
    yield from _plain("txt_agg_embedding", text.agg_token.weight)
    yield from _plain("raw_to_embeddings/text/embeddings", text.embedding.weight)
    yield from _dense("pre_proj/text", text.pre_projection)
    yield from _under("pos_embedding_lookup/text", _positions(text.positions))
    yield from _under("tx", _encoder(module.encoder))
    for modality, dense in module.post_projections.items():
        assert isinstance(dense, Dense)
        yield from _dense(f"post_proj/{modality}", dense)


def _batch_norm(name: str, module: BatchNorm) -> Items:
    yield from _norm(name, module)
    yield from _plain(f"{name}/moving_mean", module.running_mean)
    yield from _plain(f"{name}/moving_variance", module.running_var)


def _relu_dense_bn(module: ReluDenseBN) -> Items:
    if module.pre_bn is not None:
        yield from _batch_norm("pre_bn", module.pre_bn)
    yield from _dense("dense", module.dense)
    yield from _batch_norm("bn", module.bn)


def _fac(module: FACHead) -> Items:
    yield from _dense("vid_to_hid", module.video_to_hidden)
    yield from _under("hid_to_va", _relu_dense_bn(module.hidden_to_va))
    yield from _under("va_to_vat", _relu_dense_bn(module.va_to_vat))
    yield from _dense("aud_to_va", module.audio_to_va)
    yield from _dense("txt_to_vat", module.text_to_vat)


def _joint(module: JointHead) -> Items:
    yield from _under("vid_to_vat", _relu_dense_bn(module.video_to_vat))
    yield from _under("aud_to_vat", _relu_dense_bn(module.audio_to_vat))
    yield from _under("txt_to_vat", _relu_dense_bn(module.text_to_vat))


def _conv_unit(conv: str, norm: str, module: ConvUnit) -> Items:
    weight = module.conv.weight
    shape = (*weight.shape[2:], weight.shape[1], weight.shape[0])
    yield f"{conv}/kernel", Variable(weight, shape, convolution=True)
    yield from _batch_norm(norm, module.bn)


def _i3d(module: I3D) -> Items:
    for name, layer in module.layers.items():
        if isinstance(layer, ConvUnit):
            yield from _conv_unit(f"{name}/conv3d", f"{name}/bn", layer)
        for place, unit in layer.named_children():
            if isinstance(unit, ConvUnit):  # of a mixed block
                yield from _conv_unit(f"{name}/unit3d_{place}/conv3d", f"{name}/unit3d_{place}/bn", unit)


def _resnet(module: ResNet) -> Items:
    stem = "initial_conv_relu_max_pool"
    yield from _conv_unit(f"{stem}/0/conv2d", f"{stem}/2/bn", module.stem)
    for g, group in enumerate(module.groups):
        assert isinstance(group, nn.Sequential)
        for b, block in enumerate(group):
            assert isinstance(block, Bottleneck)
            path = f"block_groups/{g}/layers/{b}"
            if block.shortcut is not None:
                to = f"{path}/projection_layers"
                yield from _conv_unit(f"{to}/0/conv2d", f"{to}/1/bn", block.shortcut)
            to = f"{path}/conv_relu_dropblock_layers"  # every third place is a DropBlock, which has no variables
            for number, unit in enumerate(block.units):
                assert isinstance(unit, ConvUnit)
                yield from _conv_unit(f"{to}/{3 * number}/conv2d", f"{to}/{3 * number + 1}/bn", unit)


def _backbone_of(module: Backbone | ConvBackbone) -> Items:
    if isinstance(module, Backbone):
        return _backbone(module)
    return _i3d(module) if isinstance(module, I3D) else _resnet(cast(ResNet, module))


def _vatt(module: VATT) -> Items:
    if module.unified is not None:
        yield from _under("_base_layer/unified_backbone/unified_transformer", _unified(module.unified))
    else:
        yield from _under("_base_layer/vid_backbone/_base", _backbone_of(module.video))
        yield from _under("_base_layer/aud_backbone/_base", _backbone_of(module.audio))
        yield from _under("_base_layer/txt_backbone", _text(module.text))
    head = module.head
    yield from _under("_head_layer/_bridge_heads/0", _fac(head) if isinstance(head, FACHead) else _joint(head))


def _classifier(module: Classifier) -> Items:
    yield from _under("_base", _backbone_of(module.backbone))
    yield from _dense("_ops/cls", module.classifier)


_WALKS: dict[type[nn.Module], Callable[[Any], Items]] = {
    Backbone: _backbone,
    I3D: _i3d,
    ResNet: _resnet,
    TextBackbone: _text,
    UnifiedBackbone: _unified,
    FACHead: _fac,
    JointHead: _joint,
    VATT: _vatt,
    Pretraining: lambda module: _vatt(module.vatt),
    Classifier: _classifier,
}
