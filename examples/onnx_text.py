"""Embeds sentences with the text of a model as ONNX: no torch, no model folder, nothing of this project.

Make the file by: vatt export runs/mine --part text --out text.onnx. It needs onnxruntime, numpy and tokenizers alone.
Without sentences it serves them: curl -d '["a dog barks"]' http://127.0.0.1:8000
"""

import argparse
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="FILE.onnx, with FILE.tokenizer.json beside it")
    parser.add_argument("sentences", nargs="*", metavar="SENTENCE", help="print their embeddings, a line of JSON each")
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1 (%(default)s)")
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(str(options.model), providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["vatt"])["input"]
    words = options.model.with_suffix(".tokenizer.json").read_bytes()
    if hashlib.sha256(words).hexdigest() != about["tokenizer_sha256"]:
        raise SystemExit(f"error: {options.model}: its words are not those of the tokenizer.json beside it")
    tokenizer = Tokenizer.from_str(words.decode())

    def embed(sentences: list[str]) -> list[list[float]]:
        ids = np.zeros((len(sentences), about["words"]), np.int64)  # 0 is padding
        for row, sentence in zip(ids, sentences, strict=True):
            known = tokenizer.encode(sentence, add_special_tokens=False).ids[: about["words"]]
            row[: len(known)] = known
        return session.run(["to_video"], {"text": ids})[0].tolist()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                asked = json.loads(self.rfile.read(min(int(self.headers["Content-Length"]), 1_000_000)))
                status, answer = 200, embed([str(sentence) for sentence in asked[:256]])
            except (TypeError, ValueError):
                status, answer = 400, "expected a JSON array of sentences"
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

    for sentence in options.sentences:
        print(json.dumps({"text": sentence, "embedding": embed([sentence])[0]}))
    if not options.sentences:
        ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
