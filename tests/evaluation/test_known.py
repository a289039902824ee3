"""A tokenizer that gives tokens beyond the model's embedding is refused in one sentence, whatever is asked."""

from types import SimpleNamespace

import pytest
from ptqflow.errors import ConfigError
from ptqflow.evaluation.items import ChoiceItem, GenerationItem, TextItem
from ptqflow.evaluation.requests import choices, generation, perplexity
from talking_models import byte_tokenizer

ASKED = {
    "choices": (choices, ChoiceItem("i", ("Question: why?\nAnswer:",), (" so", " no"), 0), {}),
    "generation": (generation, GenerationItem("i", "Why?", "1"), {"max_new_tokens": 4}),
    "perplexity": (perplexity, TextItem("i", "words and words"), {"window": 4}),
}


@pytest.mark.parametrize("kind", ASKED)
def test_a_token_beyond_the_embedding_is_refused(kind):
    module, item, protocol = ASKED[kind]
    engine = SimpleNamespace(tokenizer=byte_tokenizer(), vocab_size=50, max_length=512)
    with pytest.raises(ConfigError, match=r"task t: the tokenizer gives token \d+, beyond the 50 rows of the model's embedding"):
        module.generate("t", [item], engine, module.Protocol(**protocol), 0, 1)
