"""llama.cpp's own server with a tiny random model, for the tests of this folder; it runs in .venv-foreign.

    .venv-foreign/bin/python llama_server.py FOLDER plain|thinks|strict

Writes the model into the folder, prints the server's URL, and serves until it is ended. What it says is noise, with any
character among it. The last argument names its chat template: one that opens a thought, so that it begins as reasoning,
or one that refuses system turns, and turns that do not alternate.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import gguf
import numpy as np
import xllamacpp

CONTEXT = 1024  # tokens
WIDTH, INNER, HEADS, LAYERS = 32, 64, 2, 2
CONTROL = ["<s>", "</s>"]
THOUGHT = ["<think>", "</think>"]
WORDS = ["▁", "▁the", "▁cat", "▁sat", "é", "ß", "漢", "🙂", "\n", ".", ",", '"', "\\", "data:"]
# Qwen's, shortened: by what it does with an old thought, llama.cpp knows how a new one is written.
QWEN = """
{%- for message in messages %}
{{- '<s>' + message.role + '\n' }}
{%- if message.reasoning_content %}{{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}{%- endif %}
{{- message.content + '</s>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<s>assistant\nTHOUGHT' }}{%- endif %}
"""
# Gemma's, shortened.
GEMMA = """
{%- if messages[0].role == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{%- for message in messages %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{{- '<s>' + message.role + '\n' + message.content + '</s>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<s>model\n' }}{%- endif %}
"""
TEMPLATES = {"plain": QWEN.replace("THOUGHT", ""), "thinks": QWEN.replace("THOUGHT", "<think>\n"), "strict": GEMMA}
FAVOURED = {"</s>": 1.2, "</think>": 10.0, "🙂": 2.0, "▁cat": 2.0}  # so that every answer has an end, every thought too


def main() -> None:
    folder, template = Path(sys.argv[1]), TEMPLATES[sys.argv[2]]
    path = folder / "model.gguf"
    write_model(path, template)
    server = xllamacpp.Server(parameters(path))
    print(f"serving at {server.listening_address}", flush=True)
    signal.sigwait({signal.SIGTERM})


def write_model(path: Path, template: str) -> None:
    """A Llama of some hundred kilobytes, its weights drawn at random."""
    bytewise = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = ["<unk>", *CONTROL, *THOUGHT, *bytewise, *WORDS]
    kind = gguf.TokenType
    kinds = [kind.UNKNOWN, *[kind.CONTROL] * len(CONTROL), *[kind.USER_DEFINED] * len(THOUGHT)]
    kinds += [*[kind.BYTE] * len(bytewise), *[kind.NORMAL] * len(WORDS)]

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(vocabulary)
    writer.add_token_types(kinds)
    writer.add_token_scores([-float(place) for place in range(len(vocabulary))])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(vocabulary.index("<s>"))
    writer.add_eos_token_id(vocabulary.index("</s>"))
    writer.add_chat_template(template)
    for name, tensor in weights(vocabulary).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def weights(vocabulary: list[str]) -> dict[str, np.ndarray]:
    """Random ones, but for the first dimension: it is 1 up to the last layer, which makes of it what is favoured."""
    chance = np.random.default_rng(1)

    def drawn(*shape: int) -> np.ndarray:
        return 0.3 * chance.standard_normal(shape, dtype=np.float32)

    def leaving_the_first(*shape: int) -> np.ndarray:
        made = drawn(*shape)
        made[0, :] = 0
        return made

    ones = np.ones(WIDTH, dtype=np.float32)
    embedding, output = drawn(len(vocabulary), WIDTH), drawn(len(vocabulary), WIDTH)
    embedding[:, 0], output[:, 0] = 1, 0
    for token, towards in FAVOURED.items():
        output[vocabulary.index(token), 0] = towards
    made = {"token_embd.weight": embedding, "output_norm.weight": ones, "output.weight": output}
    for layer in range(LAYERS):
        made |= {f"blk.{layer}.{name}_norm.weight": ones for name in ("attn", "ffn")}
        made |= {f"blk.{layer}.attn_{name}.weight": drawn(WIDTH, WIDTH) for name in ("q", "k", "v")}
        made[f"blk.{layer}.attn_output.weight"] = leaving_the_first(WIDTH, WIDTH)
        made |= {f"blk.{layer}.ffn_{name}.weight": drawn(INNER, WIDTH) for name in ("gate", "up")}
        made[f"blk.{layer}.ffn_down.weight"] = leaving_the_first(WIDTH, INNER)
    return made


def parameters(path: Path) -> xllamacpp.CommonParams:
    wanted = xllamacpp.CommonParams()
    wanted.model.path = str(path)
    wanted.hostnames = ["127.0.0.1"]
    wanted.port = 0
    wanted.api_keys = ["sk-llama"]
    wanted.offline = True
    wanted.ui = False
    wanted.warmup = False
    wanted.n_ctx = CONTEXT
    wanted.n_parallel = 1
    wanted.n_threads_http = 4
    wanted.cpuparams.n_threads = 1
    wanted.model_alias = {"tiny"}
    return wanted


if __name__ == "__main__":
    main()
