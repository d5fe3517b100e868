"""Make the bundled whisper-nano readable by the peers: its weights exist as ONNX only.

    python nano_peers.py MODEL_FOLDER OUT

Writes OUT/hf (Transformers), OUT/ct2-int8 (CTranslate2) and OUT/onnx-int8 (names as onnx-asr looks for them).
Constants of products have no names of their own in the graphs, but the nodes that read them are named after the module.
"""
import shutil
import sys
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from transformers import WhisperConfig, WhisperForConditionalGeneration


def weights(graph, prefix):
    """Parameters by their name in Transformers, which starts with `prefix` where the graph's own names do not."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    # Equal tensors are stored once; identities give the copies their names.
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    found = {}
    for name, tensor in constants.items():
        if not name.startswith("onnx::"):
            found[prefix + name] = numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            module = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            found[prefix + module + ".weight"] = numpy_helper.to_array(constants[node.input[1]]).T
        if node.op_type == "Add":
            for name in node.input:
                if name in constants and constants[name].dims and len(constants[name].dims) == 2:
                    found[prefix + "embed_positions.weight"] = numpy_helper.to_array(constants[name])
    return found


def main():
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    hf, int8 = out / "hf", out / "onnx-int8"
    for folder in (hf, int8):
        folder.mkdir(parents=True, exist_ok=True)
        for file in source.glob("*.json"):
            shutil.copy(file, folder)
        shutil.copy(source / "merges.txt", folder)
    for name in ("encoder_model", "decoder_model_merged"):
        shutil.copy(source / "onnx" / f"{name}_quantized.onnx", int8 / f"{name}.int8.onnx")

    model = WhisperForConditionalGeneration(WhisperConfig.from_pretrained(source))
    found = weights(onnx.load(source / "onnx" / "encoder_model.onnx").graph, "model.encoder.")
    found |= weights(onnx.load(source / "onnx" / "decoder_model.onnx").graph, "")
    state = model.state_dict()
    for name in state:
        values = found.get(name)
        if name == "proj_out.weight":
            values = found["model.decoder.embed_tokens.weight"]
        if values is None or tuple(values.shape) != tuple(state[name].shape):
            raise SystemExit(f"the graphs do not hold {name} {tuple(state[name].shape)}")
        state[name].copy_(torch.from_numpy(values.copy()))
    model.load_state_dict(state)
    model.save_pretrained(hf)
    shutil.copy(source / "generation_config.json", hf)
    shutil.copy(source / "config.json", hf)

    from ctranslate2.converters import TransformersConverter
    TransformersConverter(str(hf), copy_files=["tokenizer.json", "preprocessor_config.json"]).convert(
        str(out / "ct2-int8"), quantization="int8", force=True)


if __name__ == "__main__":
    main()
