"""Embeds sentences with the text of a model as ONNX: no torch, no model folder, nothing of this project.

Make the file by: vatt export runs/mine --part text --out text.onnx; take text.tokenizer.json along.
It needs these alone: pip install onnxruntime numpy tokenizers
Without sentences it serves them: curl -d '["a dog barks"]' http://127.0.0.1:8000
"""

import argparse
import hashlib
import json
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class Text:
    """The text of a model: sentences -> embeddings of length 1, to compare with those of its videos."""

    def __init__(self, path: Path) -> None:
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            self.about = json.loads(self.session.get_modelmeta().custom_metadata_map["vatt"])["input"]
            words = path.with_suffix(".tokenizer.json").read_bytes()
        except Exception as error:  # onnxruntime has kinds of its own
            raise SystemExit(f"error: {path}: {' '.join(str(error).split())}") from error
        if hashlib.sha256(words).hexdigest() != self.about["tokenizer_sha256"]:
            raise SystemExit(f"error: {path}: its words are not those of the tokenizer.json beside it")
        self.tokenizer = Tokenizer.from_str(words.decode())
        self.unknown = self.tokenizer.token_to_id(json.loads(words)["model"].get("unk_token") or "")

    def embed(self, sentences: list[str]) -> list[list[float]]:
        """Raises ValueError: no sentence, or one without a word that the model knows."""
        if not sentences:  # a batch of no rows ends the process inside onnxruntime
            raise ValueError("no sentence")
        ids = np.zeros((len(sentences), self.about["words"]), np.int64)  # 0 is padding
        for row, sentence in zip(ids, sentences, strict=True):
            known = self.tokenizer.encode(sentence, add_special_tokens=False).ids[: len(row)]
            if not set(known) - {self.unknown}:
                raise ValueError(f"{sentence[:100]!r} holds no word that the model knows")
            row[: len(known)] = known
        return self.session.run(["to_video"], {"text": ids})[0].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="FILE.onnx, with FILE.tokenizer.json beside it")
    parser.add_argument("sentences", nargs="*", metavar="SENTENCE", help="print their embeddings, a line of JSON each")
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1 (%(default)s)")
    options = parser.parse_args()
    text = Text(options.model)

    class Handler(BaseHTTPRequestHandler):
        timeout = 30  # seconds of waiting for the rest of a request

        def do_POST(self) -> None:
            try:
                asked = json.loads(self.rfile.read(min(int(self.headers["Content-Length"]), 1_000_000)))
                if not isinstance(asked, list) or not all(isinstance(sentence, str) for sentence in asked):
                    raise ValueError("expected a JSON array of sentences")
                if len(asked) > 256:
                    raise ValueError("more than 256 sentences")
                status, answer = 200, text.embed(asked)
            except (TypeError, ValueError) as error:
                status, answer = 400, str(error)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    try:
        for sentence in options.sentences:
            print(json.dumps({"text": sentence, "embedding": text.embed([sentence])[0]}))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    if not options.sentences:
        with ThreadingHTTPServer(("127.0.0.1", options.port), Handler) as server, suppress(KeyboardInterrupt):
            print(f"http://127.0.0.1:{server.server_port} (Ctrl-C ends it)", flush=True)
            server.serve_forever()


if __name__ == "__main__":
    main()
