"""The text models against text_*.npz."""

from __future__ import annotations

import pytest
import torch

from tests.golden.golden import assert_close, assert_gradients, load, loaded, text_config
from tests.numerics import assert_as_exact_as_eager
from vatt.models import TextBackbone


@pytest.fixture(scope="module", params=["text_t5", "text_bert", "text_bert_small", "text_linear"])
def case(request):
    golden = load(request.param)
    return golden, loaded(TextBackbone(text_config(golden.config)), golden)


def exact(golden, name):
    """The twin with a float64 spline, where the float32 one holds noise (README, Numerical tolerance)."""
    return golden.outputs.get(f"float64spline/{name}", golden.outputs[name])


def test_outputs(case):
    golden, model = case
    other = [""] + (["_other"] if "word_ids_other" in golden.inputs else [])
    for suffix in other:
        out = model(golden.tensor(f"word_ids{suffix}"))
        assert_close(out["features_pooled"], exact(golden, f"sentence_embeddings{suffix}"), name=suffix)
        assert_close(out["features"], exact(golden, f"word_embeddings{suffix}"), name=suffix)


def test_gradients(case):
    golden, model = case
    model.zero_grad()
    out = model(golden.tensor("word_ids"))
    target = (out["features_pooled"] * golden.tensor("r_sentence")).sum()
    (target + (out["features"] * golden.tensor("r_word")).sum()).backward()
    prefix = "float64spline/" if any(name.startswith("float64spline/") for name in golden.grads) else ""
    assert_gradients(model, golden, prefix)


def test_every_attention_is_as_exact_as_eager(case):
    golden, model = case
    if model.kind == "linear":
        pytest.skip("the linear text model has no attention")
    eager = loaded(TextBackbone(text_config(golden.config), backend="torch"), golden)
    ids = golden.tensor("word_ids")
    with torch.no_grad():
        result, plain = model(ids)["features"], eager(ids)["features"]
        assert_as_exact_as_eager(result, plain, eager.double()(ids)["features"])
