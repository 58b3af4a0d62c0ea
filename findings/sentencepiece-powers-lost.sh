#!/usr/bin/env bash
# One would guess that a text comes back from SentencePiece as it was where the training text has all its characters.
# In fact a tokenizer trained with the defaults rewrites each text first: 2 to the power of 5 (a raised 5, U+2075)
# comes back as 25, one and a half (U+00BD) as 11/2 with a fraction slash, ten to the minus three as 10-3. Raised
# digits stand throughout the training text here, and none is in the vocabulary. A line break comes back as a space.
# sentencepiece 0.2.3; the rule is nmt_nfkc. normalization_rule_name="identity" keeps powers and fractions (a line
# break is then an unknown character).
# It matters to people who train a tokenizer for answers in mathematics because a right answer is a wrong number before
# the model sees it, and the tokens show nothing odd.
# Upstream: issue 329 (closed) has it for other characters, as expected behaviour.
# Seen here: "25 = 32", "11/2 cups", "10-3 m" and "a b"; the first three whole with identity.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq sentencepiece==0.2.3
cd "$T"
"$T/venv/bin/python" - <<'PY'
import random
import sys

import sentencepiece

random.seed(0)
words = "the area is 2\u2075 = 32 cm\u00b2 1\u00bd cups 10\u207b\u00b3 m a b 1 5 7 9 4 0 6 8".split()
with open("text.txt", "w", encoding="utf-8") as file:
    file.writelines(" ".join(random.choices(words, k=12)) + "\n" for _ in range(400))
texts = ("2\u2075 = 32", "1\u00bd cups", "10\u207b\u00b3 m", "a\nb")
seen = {}
for name, options in {"default": {}, "identity": {"normalization_rule_name": "identity"}}.items():
    sentencepiece.SentencePieceTrainer.train(
        input="text.txt", model_prefix=name, vocab_size=60, hard_vocab_limit=False, character_coverage=1.0,
        minloglevel=9, num_threads=1, **options,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=f"{name}.model")
    seen[name] = [model.decode(model.encode(text)) for text in texts]
    vocabulary = "".join(model.id_to_piece(i) for i in range(model.get_piece_size()))
    seen[name].append([digit in vocabulary for digit in "\u2075\u00b2\u00b3"])
    print(name, list(map(ascii, seen[name])))
if not (seen["default"] == ["25 = 32", "11\u20442 cups", "10\u22123 m", "a b", [False] * 3]
        and seen["identity"][:3] == list(texts[:3]) and seen["identity"][4] == [True] * 3):
    sys.exit("The behaviour differs from the description: such texts come back in another way.")
PY
