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
from typing import Any


def main(checkout: str, asked: dict[str, Any]) -> None:
    """Answers until nobody asks."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to the errors
    run, version = step(checkout, asked)
    run()
    sys.stdin.readline()
    print(json.dumps({"tensorflow": version}), file=channel)
    for _ in sys.stdin:
        began, used = time.perf_counter(), time.process_time()
        loss = run()
        took = {"s": time.perf_counter() - began, "cpu": time.process_time() - used, "loss": loss}
        print(json.dumps(took), file=channel)


def step(checkout: str, asked: dict[str, Any]) -> Any:
    """A function that makes one update, as the official loop does, and gives the loss; the version of TensorFlow."""
    os.environ |= {"TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    sys.path.insert(0, checkout)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(asked["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from vatt.configs import base_config, factory
    from vatt.experiments import base
    from vatt.modeling import factory as models
    from vatt.utils.train import objectives

    # Rows of all replicas: on one they are its own, and TensorFlow has this operation for TPUs alone.
    objectives.cross_replica_gather = lambda tensor, replicas, batch_dim=0: tensor
    config = factory.build_model_configs("tx_fac")
    parts, head = config.backbone_config, config.head_config.bridge[0]
    for part in ("video", "audio", "text"):
        sizes, known = base_config.Config(), vars(factory.build_model_configs(getattr(parts, f"{part}_backbone")))
        for name in asked[part].keys() & known.keys():
            setattr(sizes, name, asked[part][name])
        setattr(parts, f"{part}_model_kwargs", sizes)
    head.vid_to_aud_txt_kwargs.d_model = head.aud_to_vid_txt_kwargs.d_model = asked["head"]["d_va"]
    head.txt_to_vid_aud_kwargs.d_model = asked["head"]["d_vat"]
    model, shapes = models.build_model(config), asked["shapes"]
    inputs = {name: tf.random.uniform(shapes[name], -1, 1) for name in ("video", "audio")}
    inputs["text"] = tf.random.uniform(shapes["text"], 1, asked["text"]["vocab_size"], dtype=tf.int32)
    labels = dict.fromkeys(("audio_mask", "text_mask"), tf.ones(shapes["video"][0]))
    model(inputs, training=False)  # makes the weights
    model.optimizer = tf.keras.optimizers.Adam(1e-4)
    loop = base.Executor(model, None, SimpleNamespace(train=SimpleNamespace(gradient_clip_norm=0.0)), _Single(), None)
    loop.prepare_inputs = lambda inputs: (inputs, labels)
    update = loop.create_replicated_train_step(tf.distribute.get_strategy(), model)
    return lambda: float(update(inputs)["total_loss"]), tf.__version__


class _Single:
    """What an executor asks of its strategy."""

    num_replicas_in_sync = 1


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
