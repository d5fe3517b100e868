"""Make a full-size Whisper with random weights that nevertheless says a known text.

    python scripted_whisper.py --size tiny --out models/scripted-tiny

Real weights cannot always be had; speed does not need them, and neither does equality. All layers are random, so the
work is real. The decoder's positional embedding at position p is set to 20x the (unit) embedding of the token wanted at
p+1, the output head is tied and the last LayerNorm has gain 1: every engine, in float or int8, emits exactly the
scripted tokens. Needs condition_on_previous_text=False in engines that prompt with earlier text (a prompt shifts positions).

Writes OUT/hf (Transformers layout), OUT/onnx (published ONNX layout, float), OUT/onnx-int8 (dynamic int8 MatMul),
OUT/ct2-int8 (CTranslate2, for faster-whisper) and OUT/expect.txt (the text of one 30 s window).

Packages: torch transformers==4.57.* openai-whisper tokenizers optimum-onnx onnx onnxruntime ctranslate2
"""
import argparse
import json
from pathlib import Path

import torch
import whisper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
from whisper.tokenizer import LANGUAGES, get_tokenizer

SIZES = {"tiny": (384, 4, 6), "base": (512, 6, 8), "small": (768, 12, 12)}  # d_model, layers, heads
VOCABULARY = 51865
GAIN = 20.0
WORDS = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec romeo "
    "sierra tango uniform victor whiskey xray yankee zulu apple river mountain window garden yellow paper silver winter "
    "summer market bridge doctor engine forest guitar hammer island jacket kitchen ladder mirror number orange pencil "
    "rabbit school table umbrella village water"
)


def scripted_model(d_model, layers, heads, script):
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=VOCABULARY, num_mel_bins=80, d_model=d_model,
        encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=heads, decoder_attention_heads=heads,
        encoder_ffn_dim=4 * d_model, decoder_ffn_dim=4 * d_model, max_source_positions=1500, max_target_positions=448,
        decoder_start_token_id=50258, bos_token_id=50257, eos_token_id=50257, pad_token_id=50257,
        suppress_tokens=None, begin_suppress_tokens=[220, 50257],
    )
    model = WhisperForConditionalGeneration(config).eval()
    state = model.state_dict()
    embedding = torch.randn(VOCABULARY, d_model)
    embedding /= embedding.norm(dim=1, keepdim=True)
    positions = GAIN * embedding[50257].repeat(448, 1)  # after the script: end of text
    positions[: len(script)] = GAIN * embedding[script]
    state["model.decoder.embed_tokens.weight"].copy_(embedding)
    state["proj_out.weight"].copy_(embedding)
    state["model.decoder.embed_positions.weight"].copy_(positions)
    state["model.decoder.layer_norm.weight"].fill_(1.0)
    model.load_state_dict(state)
    generation = model.generation_config
    generation._from_model_config = False  # else it is made anew on loading, without what follows
    generation.lang_to_id = {f"<|{code}|>": 50259 + i for i, code in enumerate(LANGUAGES) if i < 99}
    generation.task_to_id = {"transcribe": 50359, "translate": 50358}
    generation.no_timestamps_token_id = 50363
    generation.prev_sot_token_id = 50361
    generation.is_multilingual = True
    generation.suppress_tokens = None
    generation.begin_suppress_tokens = [220, 50257]
    generation.max_length = 448
    return model


def byte_level_alphabet():
    """GPT-2's reversible map from bytes to printable characters."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    mapping = {byte: chr(byte) for byte in kept}
    for byte in range(256):
        if byte not in mapping:
            mapping[byte] = chr(256 + len(mapping) - len(kept))
    return mapping


def merges_of(ranks):
    """Recover BPE merges from a rank table: each token is the merge of the two parts left below its own rank."""
    def parts_below(token, limit):
        parts = [bytes([b]) for b in token]
        while True:
            pairs = [(ranks[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in ranks]
            best = min(pairs, default=(limit, 0))
            if best[0] >= limit:
                return parts
            i = best[1]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1 and len(parts := parts_below(token, rank)) == 2:
            yield parts


def save_tokenizer(encoding, folder):
    alphabet = byte_level_alphabet()
    spell = lambda token: "".join(alphabet[b] for b in token)
    ranks = encoding._mergeable_ranks
    vocabulary = {spell(token): rank for token, rank in ranks.items()}
    merges = [(spell(a), spell(b)) for a, b in merges_of(ranks)]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = sorted(encoding._special_tokens.items(), key=lambda item: item[1])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text, _ in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in merges))
    (folder / "added_tokens.json").write_text(json.dumps(dict(special)))
    end = "<|endoftext|>"
    (folder / "special_tokens_map.json").write_text(json.dumps(dict.fromkeys(["bos_token", "eos_token", "unk_token", "pad_token"], end)))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "WhisperTokenizer", "model_max_length": 1024, "errors": "replace", "add_prefix_space": False,
        "bos_token": end, "eos_token": end, "unk_token": end, "pad_token": end,
    }))


def export(out):
    from ctranslate2.converters import TransformersConverter
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from optimum.exporters.onnx import main_export

    main_export(str(out / "hf"), output=str(out / "onnx"), task="automatic-speech-recognition-with-past", do_validation=False)
    int8 = out / "onnx-int8"
    int8.mkdir(exist_ok=True)
    # The exporter drops languages and tasks, which published folders have.
    (out / "onnx" / "generation_config.json").write_bytes((out / "hf" / "generation_config.json").read_bytes())
    for config in (out / "onnx").glob("*.json"):
        (int8 / config.name).write_bytes(config.read_bytes())
    for name in ("encoder_model", "decoder_model_merged"):
        quantize_dynamic(
            out / "onnx" / f"{name}.onnx", int8 / f"{name}.int8.onnx", weight_type=QuantType.QInt8, per_channel=True,
            op_types_to_quantize=["MatMul"], extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
        )
    TransformersConverter(str(out / "hf"), copy_files=["tokenizer.json", "preprocessor_config.json"]).convert(
        str(out / "ct2-int8"), quantization="int8", force=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--size", choices=SIZES, default="tiny")
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()

    tokenizer = get_tokenizer(multilingual=True, num_languages=99, language="en", task="transcribe")
    text = tokenizer.encode(" " + WORDS)[:90]
    first = tokenizer.timestamp_begin
    script = [50259, 50359, first, *text, first + 1500, 50257]  # wanted at positions 1, 2, ...
    folder = options.out / "hf"
    folder.mkdir(parents=True, exist_ok=True)
    scripted_model(*SIZES[options.size], script).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    save_tokenizer(tokenizer.encoding, folder)
    (options.out / "expect.txt").write_text(tokenizer.decode(text))
    export(options.out)


if __name__ == "__main__":
    main()
