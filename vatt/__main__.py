"""The command ``vatt``, or ``python -m vatt``: one module per sub-command, imported only when it runs."""

from __future__ import annotations

from vatt import signals

if __name__ == "__main__":
    signals.early()  # before all that takes time

import argparse
import sys
from importlib import import_module

from vatt.cli.jobs import start
from vatt.errors import UserError, printable

# sub-command -> what it does. Its module, vatt.cli.<name>, has add_arguments(parser) and run(options) -> exit status.
COMMANDS = {
    "accounting": "parameters, operations, bytes and memory of every model and phase; the paper's figures beside ours",
    "convert": "weights of the TensorFlow code to a folder that VATT.from_pretrained loads",
    "data": "published annotations to a manifest; check a manifest and its files",
    "embed": "embeddings of all videos, sounds or sentences of a folder or manifest",
    "export": "a part of a model as ONNX or a torch.export program, checked against the model",
    "index": "an index of a folder, manifest or shards, to search in: windows over whole files",
    "info": "models, this machine, and which kernels run here",
    "mteb": "a model on the public boards of MTEB: retrieval and classification of video, sound and text",
    "plan": "memory, time and communication of a pretraining run on many GPUs, before it starts",
    "push": "a model and a page on it to the hub, or into a folder",
    "sample": "builds the sample set of short narrated videos; what chance and an oracle reach on it",
    "search": "moments of an index by words, a sound, a film or a picture",
    "serve": "a page that searches an index by words, sounds and clips, and plays what it finds",
}
# These read their own arguments: vatt.cli.jobs starts them.
JOBS = {
    "pretrain": "trains a model on your videos, or on the sample",
    "finetune": "trains a pretrained model to name classes",
    "evaluate": "classification, zero-shot retrieval and linear probes of a model",
    "report": "writes the page of a run again from the files of its folder",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a sub-command; its exit status. ``arguments``: None takes those of this process, whose command it is."""
    ours = arguments is None
    if arguments is None:
        arguments = sys.argv[1:]
        signals.early()  # imports take seconds
    parser = argparse.ArgumentParser(
        prog="vatt", description="Video-Audio-Text Transformer: data, weights, training, embeddings, costs."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, what in COMMANDS.items():
        made = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".", allow_abbrev=False)
        if arguments[:1] == [name]:
            import_module(f"vatt.cli.{name}").add_arguments(made)
    for name, what in JOBS.items():
        commands.add_parser(name, help=what)
    try:
        if arguments and arguments[0] in JOBS:
            start(arguments[0], arguments[1:])
        options = parser.parse_args(arguments)
        with signals.ending():
            return import_module(f"vatt.cli.{options.command}").run(options)
    except UserError as error:
        print("error:", printable(error, keep="\n"), file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(signals.words_of(error), file=sys.stderr)
        if ours:
            signals.leave(signals.status_of(error))
        return signals.status_of(error)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:
        print("error:", printable(error, keep="\n"), file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
