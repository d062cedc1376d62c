"""Writes a model's folder for Dynamo's simulated engine: a tokenizer of whole words and a configuration, no weights.

Usage: model.py FOLDER
"""

import json
import pathlib
import sys

from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = 512
LENGTH = 32_768

folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True)
special = ["<unk>", "<s>", "</s>"]
words = special + [f"w{number}" for number in range(WORDS - len(special))]
tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer.save(str(folder / "tokenizer.json"))


def write(name, content):
    """One JSON file of the folder."""
    (folder / name).write_text(json.dumps(content))


write(
    "config.json",
    {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 128,
        "vocab_size": WORDS,
        "max_position_embeddings": LENGTH,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
)
write("generation_config.json", {"bos_token_id": 1, "eos_token_id": [2]})
write(
    "tokenizer_config.json",
    {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": LENGTH,
        "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    },
)
