"""Training steps of the official TensorFlow code (google-research/google-research, folder vatt), in a Python that can
import it, which need not be ours: this file imports nothing of the project. See `bench.baselines.official`.

Arguments: the folder that holds the official ``vatt``, and JSON: sizes of its models by their own names, shapes of a
batch, threads. After a first step it answers each line that it reads: the first with the version of TensorFlow, the
others with what a step took.
"""

import json
import os
import sys
import time
from types import SimpleNamespace

os.environ |= {"TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
CHECKOUT, ASKED = sys.argv[1], json.loads(sys.argv[2])
channel = os.fdopen(os.dup(1), "w", buffering=1)  # what libraries print goes to the errors
os.dup2(2, 1)

sys.path.insert(0, CHECKOUT)

import tensorflow as tf  # noqa: E402

tf.config.threading.set_intra_op_parallelism_threads(ASKED["threads"])
tf.config.threading.set_inter_op_parallelism_threads(1)

from vatt.configs import base_config, factory  # noqa: E402
from vatt.experiments import base  # noqa: E402
from vatt.modeling import factory as models  # noqa: E402
from vatt.utils.train import objectives  # noqa: E402

# Rows of all replicas: on one they are its own, and TensorFlow has this operation for TPUs alone.
objectives.cross_replica_gather = lambda tensor, replicas, batch_dim=0: tensor


def sizes(name: str, wanted: dict) -> base_config.Config:
    """Of a backbone, those that its official configuration has."""
    known, found = factory.build_model_configs(name), base_config.Config()
    for field in wanted.keys() & vars(known).keys():
        setattr(found, field, wanted[field])
    return found


def step():
    """A function that makes one update, as the official loop does, and gives the loss."""
    config = factory.build_model_configs("tx_fac")
    parts, head = config.backbone_config, config.head_config.bridge[0]
    parts.video_model_kwargs = sizes(parts.video_backbone, ASKED["video"])
    parts.audio_model_kwargs = sizes(parts.audio_backbone, ASKED["audio"])
    parts.text_model_kwargs = sizes(parts.text_backbone, ASKED["text"])
    head.vid_to_aud_txt_kwargs.d_model = head.aud_to_vid_txt_kwargs.d_model = ASKED["head"]["d_va"]
    head.txt_to_vid_aud_kwargs.d_model = ASKED["head"]["d_vat"]
    model, shapes = models.build_model(config), ASKED["shapes"]
    inputs = {name: tf.random.uniform(shapes[name], -1, 1) for name in ("video", "audio")}
    inputs["text"] = tf.random.uniform(shapes["text"], 1, ASKED["text"]["vocab_size"], dtype=tf.int32)
    labels = dict.fromkeys(("audio_mask", "text_mask"), tf.ones(shapes["video"][0]))
    model(inputs, training=False)  # makes the weights
    model.optimizer = tf.keras.optimizers.Adam(1e-4)

    class Loop(base.Executor):
        def prepare_inputs(self, inputs):
            return inputs, labels

    parameters = SimpleNamespace(train=SimpleNamespace(gradient_clip_norm=0.0))
    strategy = tf.distribute.get_strategy()
    update = Loop(model, None, parameters, strategy, None).create_replicated_train_step(strategy, model)
    return lambda: float(update(inputs)["total_loss"])


run = step()
run()
sys.stdin.readline()
print(json.dumps({"tensorflow": tf.__version__}), file=channel)
for _ in sys.stdin:
    began, used = time.perf_counter(), time.process_time()
    loss = run()
    print(json.dumps({"s": time.perf_counter() - began, "cpu": time.process_time() - used, "loss": loss}), file=channel)
