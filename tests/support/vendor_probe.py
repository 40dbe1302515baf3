"""Asks the vendor's converter, inside its environment, for the faults that we work around.

`python vendor_probe.py CHECKPOINT DIRECTORY` prints one JSON object. The checkpoint is a small
Llama that is stored in float16.
"""

import importlib.util
import json
import os
import sys

import numpy as np
import tpu_mlir  # noqa: F401  (sets the search paths of what follows)
from llm.LlmConverter import LlmConverter
from llm.ModelHandle import SafetensorsModelHandle
from llm.transformers_compat import load_auto_config, text_rotary_cos_sin
from tpu_mlir.python.tools.llm_combine import group_bmodels

from compiler.batched.arguments import arguments_of


def converter(checkpoint, output, quantize="f16", devices=1):
    job = {
        "checkpoint": checkpoint,
        "output": output,
        "seq": 64,
        "chunk": 0,
        "max_input": 0,
        "history": False,
        "dynamic": False,
        "quantize": quantize,
        "group_size": 64,
    }
    settings = arguments_of(job)
    settings.num_device = devices
    return LlmConverter(settings, load_auto_config(checkpoint), SafetensorsModelHandle(checkpoint))


def source(module):
    """Without importing it: some need all of torch."""
    with open(importlib.util.find_spec(f"llm.{module}").origin, encoding="utf-8") as file:
        return file.read()


def error_of(action):
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def head_for_two_devices(checkpoint, output):
    """Weights that the head's graph names and its file does not hold."""
    os.makedirs(output)
    os.chdir(output)
    made = converter(checkpoint, output, devices=2)
    made.gen_embedding_lmhead_mlir()
    with open("lm_head/lm_head.mlir", encoding="utf-8") as graph:
        text = graph.read()
    held = np.load("lm_head_top_weights.npz").files
    return [
        name
        for name in ("model.norm.weight", "lm_head.weight")
        if name in text and name not in held
    ]


def unknown_rope(checkpoint):
    config = load_auto_config(checkpoint)
    config.rope_scaling = None
    plain = text_rotary_cos_sin(config, 16)[0]
    config.rope_scaling = {"rope_type": "dynamic", "factor": 4.0}
    return bool(np.array_equal(plain, text_rotary_cos_sin(config, 16)[0]))


def rotary_table(checkpoint):
    """Row 40, where stretched frequencies differ from others."""
    config = load_auto_config(checkpoint)
    return text_rotary_cos_sin(config, 64)[0][40, 0].tolist()


def main():
    checkpoint, output = sys.argv[1:]
    glm = source("Chatglm3Converter")
    found = {
        "bf16 of a float16 checkpoint": error_of(
            lambda: converter(checkpoint, output, quantize="bf16")
        ),
        "auto of a float checkpoint": error_of(
            lambda: converter(checkpoint, output, quantize="auto")
        ),
        "head for two devices": head_for_two_devices(checkpoint, os.path.join(output, "head")),
        "pipeline over two devices": error_of(
            lambda: group_bmodels(["embedding.bmodel", "block_0.bmodel", "lm_head.bmodel"], 2)
        ),
        "chatglm knows": [word for word in ("rope_ratio", "block_kv") if word in glm],
        "mllama's constant gate": "0.63514894" in source("Llama3_2VConverter"),
        "an unknown rope type is the default": unknown_rope(checkpoint),
        "cosines": rotary_table(checkpoint),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
