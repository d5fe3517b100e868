"""Make a Parakeet TDT of full size (0.6 billion weights) with random weights, in the published layout, int8.

    python random_parakeet.py OUT

Writes OUT/encoder-model.int8.onnx, decoder_joint-model.int8.onnx, vocab.txt and config.json, with the sizes of
nvidia/parakeet-tdt-0.6b: NeMo's own export, quantised by ONNX Runtime as the published int8 files are. One layer is
exported as often as there are layers; then each gets weights of its own, so that reading them costs what it does in the
real model. A token is said at every step and every step is two frames, about six a second: every engine does equal
work, and what it says is no language.
"""
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from nemo.collections.asr.modules import ConformerEncoder, RNNTDecoder, RNNTJoint
from nemo.collections.asr.modules.rnnt import RNNTDecoderJoint
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

LAYERS, WIDTH, HIDDEN, PIECES, DURATIONS = 24, 1024, 640, 8192, 5
STEP = 2  # frames a token lasts
SMALL = 1024  # constants with fewer numbers are shapes and scales, not weights


def encoder():
    network = ConformerEncoder(
        feat_in=128, n_layers=1, d_model=WIDTH, n_heads=8, ff_expansion_factor=4, conv_kernel_size=9, use_bias=False,
        subsampling="dw_striding", subsampling_factor=8, subsampling_conv_channels=256, self_attention_model="rel_pos",
        att_context_size=[-1, -1], xscaling=False, untie_biases=True, conv_norm_type="batch_norm",
        dropout=0.0, dropout_pre_encoder=0.0, dropout_emb=0.0, dropout_att=0.0)
    network.layers.extend([network.layers[0]] * (LAYERS - 1))
    network.layer_drop_probs = [0.0] * LAYERS
    return network.eval()


def decoder():
    prediction = RNNTDecoder(
        prednet={"pred_hidden": HIDDEN, "pred_rnn_layers": 2, "t_max": None, "dropout": 0.0}, vocab_size=PIECES,
        normalization_mode=None, random_state_sampling=False, blank_as_pad=True)
    joint = RNNTJoint(
        jointnet={"encoder_hidden": WIDTH, "pred_hidden": HIDDEN, "joint_hidden": HIDDEN, "activation": "relu",
                  "dropout": 0.0},
        num_classes=PIECES, num_extra_outputs=DURATIONS, vocabulary=[str(piece) for piece in range(PIECES)],
        log_softmax=None, preserve_memory=False, fuse_loss_wer=False)
    with torch.no_grad():
        joint.joint_net[-1].bias[PIECES] = -50.0
        joint.joint_net[-1].bias[PIECES + 1 + STEP] = 50.0
    return RNNTDecoderJoint(prediction, joint).eval()


def without_aliases(model):
    """Points the readers of a weight that was exported as identities of another at that one: only it is quantised."""
    weights = {tensor.name for tensor in model.graph.initializer}
    aliases, nodes = {}, []
    for node in model.graph.node:
        source = aliases.get(node.input[0], node.input[0]) if node.input else ""
        if node.op_type == "Identity" and source in weights:
            aliases[node.output[0]] = source
            continue
        for at, name in enumerate(node.input):
            node.input[at] = aliases.get(name, name)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def with_weights_of_their_own(model):
    """Gives the second and every later reader of a matrix a copy with other columns. Tables stay shared."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = {}
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            if name not in weights or np.prod(weights[name].dims) < SMALL or node.op_type == "Slice":
                continue
            readers[name] = readers.get(name, 0) + 1
            if readers[name] > 1:
                values = np.roll(numpy_helper.to_array(weights[name]), 7 * readers[name], axis=-1)
                copy = numpy_helper.from_array(np.ascontiguousarray(values), f"{name}_{readers[name]}")
                model.graph.initializer.append(copy)
                node.input[at] = copy.name
    return model


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        one, quantized, text = (f"{folder}/{name}.onnx" for name in ("one", "quantized", "decoder"))
        encoder().export(one)
        onnx.save(without_aliases(onnx.load(one)), one)
        quantize_dynamic(one, quantized, weight_type=QuantType.QUInt8)
        onnx.save(with_weights_of_their_own(onnx.load(quantized)), str(out / "encoder-model.int8.onnx"))
        decoder().export(text)
        quantize_dynamic(text, str(out / "decoder_joint-model.int8.onnx"), weight_type=QuantType.QUInt8)
    pieces = ["<unk>", *(f"▁w{piece}" for piece in range(1, PIECES)), "<blk>"]
    (out / "vocab.txt").write_text("".join(f"{piece} {at}\n" for at, piece in enumerate(pieces)), encoding="utf-8")
    config = {"model_type": "nemo-conformer-tdt", "features_size": 128, "subsampling_factor": 8}
    (out / "config.json").write_text(json.dumps(config) + "\n")


if __name__ == "__main__":
    main()
