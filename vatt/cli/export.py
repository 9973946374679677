"""``vatt export MODEL --part video --to onnx``: a part of a model as a file that others run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vatt.cli.progress import waiting
from vatt.errors import printable
from vatt.inference.spaces import MODALITIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder of a model or of a run, or OWNER/NAME on the hub")
    add("--part", choices=MODALITIES, required=True, help="what the file reads")
    add("--to", choices=("onnx", "torch"), default="onnx", help="ONNX, or a program of torch.export (onnx)")
    add("--out", type=Path, metavar="FILE", help="FILE.onnx or FILE.pt2 (NAME-PART, here)")
    add("--pixels", choices=("uint8", "float32"), default="uint8", help="of video: 0 to 255, or -1 to 1 (uint8)")
    add("--raw", action="store_true", help="embeddings as the head gives them, to average windows before normalising")
    add("--force", action="store_true", help="write FILE anew if it is there")
    add("--opset", type=int, metavar="N", help="of ONNX (that of PyTorch's exporter)")


def run(options: argparse.Namespace) -> int:
    """Exports and says how well it agrees. Raises UserError: the model or the part cannot be exported."""
    with waiting("starting PyTorch"):
        from vatt.export import OPSET, export_part
        from vatt.hub.remote import local_model

    done = export_part(
        local_model(options.model),
        options.part,
        options.out,
        to=options.to,
        floating=options.pixels == "float32",
        normalised=not options.raw,
        opset=OPSET if options.opset is None else options.opset,
        force=options.force,
        tell=lambda line: print(printable(line), file=sys.stderr, flush=True),
    )
    about = done.about["input"]
    shape = " x ".join(str(size) for size in about["shape"])
    print(f"{printable(done.file)}: input {about['name']} {about['type']} ({shape})")
    for name, difference in done.differences.items():
        print(f"  {name}: within {difference:.1e} of the model")
    if done.tokenizer is not None:
        print(f"{printable(done.tokenizer)}: its words")
    return 0
