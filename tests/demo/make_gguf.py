"""Writes a small llama model with random weights: real work for a real server, and nobody's licence.

Usage: make_gguf.py PATH NAME VERSION SEED

The width is chosen so that a token costs about a millisecond of one core: enough to be measured, little enough that a
laptop is not disturbed.
"""

import sys

import gguf
import numpy

WIDTH, HEADS, LAYERS, FEED_FORWARD, CONTEXT = 256, 8, 4, 1024, 4096
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPACE = "\u2581"


def vocabulary():
    """Tokens and their types: control tokens, every byte, letters with and without a leading space."""
    kind = gguf.TokenType
    tokens = [b"<unk>", b"<s>", b"</s>"]
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL]
    tokens += [f"<0x{byte:02X}>".encode() for byte in range(256)]
    types += [kind.BYTE] * 256
    words = [SPACE + letter for letter in LETTERS] + list(LETTERS) + [SPACE]
    tokens += [word.encode() for word in words]
    types += [kind.NORMAL] * len(words)
    return tokens, types


def write(path, name, version, seed):
    """Writes one model; the same arguments give the same bytes."""
    random = numpy.random.RandomState(seed)
    tokens, types = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_version(version)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(0)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(rank) for rank in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }} {% endfor %}")

    def weights(*shape):
        return (random.randn(*shape) * 0.05).astype(numpy.float32)

    ones = numpy.ones(WIDTH, numpy.float32)
    writer.add_tensor("token_embd.weight", weights(len(tokens), WIDTH))
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", weights(len(tokens), WIDTH))
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        writer.add_tensor(block + "attn_norm.weight", ones)
        writer.add_tensor(block + "ffn_norm.weight", ones)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(block + part + ".weight", weights(WIDTH, WIDTH))
        writer.add_tensor(block + "ffn_gate.weight", weights(FEED_FORWARD, WIDTH))
        writer.add_tensor(block + "ffn_up.weight", weights(FEED_FORWARD, WIDTH))
        writer.add_tensor(block + "ffn_down.weight", weights(WIDTH, FEED_FORWARD))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
