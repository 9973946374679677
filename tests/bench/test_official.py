"""The official code as a provider of steps: with stand-ins for it and TensorFlow, and what is said without them."""

from __future__ import annotations

import json
import re

import pytest

from bench import run
from bench.store import read

FILES = {
    "tensorflow.py": """
        from types import SimpleNamespace as S
        __version__ = "0.stub"
        threads = []
        config = S(threading=S(
            set_intra_op_parallelism_threads=threads.append, set_inter_op_parallelism_threads=threads.append))
        random = S(uniform=lambda shape, low, high, dtype=float: tuple(shape))
        int32, ones = int, lambda count: count
        keras = S(optimizers=S(Adam=lambda rate: rate))
        distribute = S(get_strategy=lambda: "one replica")
    """,
    "vatt/configs/base_config.py": "class Config: pass",
    "vatt/configs/factory.py": """
        from types import SimpleNamespace as S
        OWN = {"vit": dict(d_model=1, num_layers=9, dropout_rate=1.0), "wat": dict(temporal_patch_stride=1)}
        OWN["t5"] = dict(d_pre_proj=1)
        def build_model_configs(name):
            if name != "tx_fac":
                return S(**OWN[name])
            bridge = S(vid_to_aud_txt_kwargs=S(), aud_to_vid_txt_kwargs=S(), txt_to_vid_aud_kwargs=S())
            backbones = S(video_backbone="vit", audio_backbone="wat", text_backbone="t5")
            return S(backbone_config=backbones, head_config=S(bridge=[bridge]))
    """,
    "vatt/experiments/base.py": """
        import json, os
        class Executor:
            def __init__(self, model, data, params, strategy, metrics):
                self.model, self.params = model, params
            def create_replicated_train_step(self, strategy, model):
                def step(inputs):
                    with open(os.path.join(os.path.dirname(__file__), "..", "..", "seen.jsonl"), "a") as file:
                        print(json.dumps([model.sizes, self.prepare_inputs(inputs)]), file=file)
                    return {"total_loss": 0.5}
                return step
    """,
    "vatt/modeling/factory.py": """
        class Model:
            def __init__(self, config):
                b, h = config.backbone_config, config.head_config.bridge[0]
                parts = (b.video_model_kwargs, b.audio_model_kwargs, b.text_model_kwargs, h.txt_to_vid_aud_kwargs)
                self.sizes = [vars(part) for part in parts]
            def __call__(self, inputs, training):
                print("a library that prints")
        build_model = Model
    """,
    "vatt/utils/train/objectives.py": "",
}


@pytest.fixture
def checkout(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "official" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
        path.write_text("\n".join(line[indent:] for line in lines) + "\n")
    return tmp_path / "official"


def steps(folder, results):
    words = ["steps", "--size", "tiny", "--device", "cpu", "--threads", "1", "--step", "vatt-tiny:2", "--mode", "step"]
    words += ["--seconds", "0", "--official", str(folder), "--results", str(results)]
    status = run.main([*words, "--provider", "official*"])
    return status, [row for row in read(results) if row["provider"].startswith("official")]


@pytest.mark.slow
def test_it_is_given_our_sizes_by_its_own_names_and_timed(checkout, tmp_path):
    status, (row,) = steps(checkout, tmp_path / "results.csv")
    assert status == 0
    assert float(row["ms"]) > 0
    assert float(row["host_ms"]) >= 0
    assert row["note"].startswith("TensorFlow 0.stub; ")
    assert row["peak_mib"] == ""
    assert row["case"] == "vatt-tiny b2"
    seen = [json.loads(line) for line in (checkout / "seen.jsonl").read_text().splitlines()]
    assert len(seen) >= 3  # the first step, and one a round
    (video, audio, text, head), (inputs, labels) = seen[-1]
    assert video == {"d_model": 128, "num_layers": 1, "dropout_rate": 0.0}
    assert (audio, text, head) == ({"temporal_patch_stride": 512}, {"d_pre_proj": 128}, {"d_model": 64})
    assert inputs == {"video": [2, 32, 64, 64, 3], "audio": [2, 153600, 1], "text": [6, 16]}
    assert labels == {"audio_mask": 2, "text_mask": 2}


def test_what_does_not_import_is_the_reason(tmp_path):
    (tmp_path / "vatt").mkdir()
    _, (row,) = steps(tmp_path, tmp_path / "results.csv")
    assert row["ms"] == ""
    assert "official TensorFlow: ended with status 1: ModuleNotFoundError: No module named" in row["note"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--official", "{}/nowhere"], "--official .*/nowhere: there is no folder vatt in it"),
        (["--official", "{}"], "--official .*: there is no folder vatt in it"),
        (["--official", "{}/with", "--official-python", "{}/python"], "--official-python .*/python: not found"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_timed(tmp_path, capsys, words, message):
    (tmp_path / "with" / "vatt").mkdir(parents=True)
    with pytest.raises(SystemExit):
        run.main(["steps", "--size", "tiny", *(word.format(tmp_path) for word in words)])
    assert re.search(message, capsys.readouterr().err)
