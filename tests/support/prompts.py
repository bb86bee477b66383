"""Prompts of many kinds, for tests with real weights."""

CONTINUATIONS = [
    "def fibonacci(n):\n    if n",
    "#include <stdio.h>\n\nint main(void) {\n",
    "SELECT name, COUNT(*) FROM orders\nWHERE",
    "import numpy as np\n\ndef softmax(x):\n",
    "<html>\n  <body>\n    <ul>\n      <li>",
    "Once upon a time, in a village by the sea,",
    "The first principle of thermodynamics states that",
    "Roses are red,",
    "The capital of France is Paris. The capital of Italy is",
    "Ingredients:\n- 2 cups of flour\n- 1 teaspoon of salt\n-",
    "Q: What is the largest planet?\nA:",
    "中国的首都是北京。日本的首都是",
    "从前有一座山,山上有一座庙,",
    "人工智能是一门研究如何让",
    "Жили-были старик со старухой у самого синего",
    "Солнце встаёт на",
    "Однажды весною, в час небывало",
    "عاصمة فرنسا هي باريس. عاصمة",
    "كان يا ما كان في قديم",
    "😀😃😄😁 are smiling faces, 🐶🐱🐭 are",
    "👩‍🚀 👨‍🚀 are astronauts; 👩‍🍳 is a",
    "1, 2, 4, 8, 16, 32, 64,",
    "3.14159265358979 and 2.71828182845904 are",
    "Name      Age     City\nAlice     30      Paris\nBob  ",
    "a\n\n\n\nb\n\n\n\nc\n\n\n\n",
    "I ❤️ Python and 🐍",
]
"""Continued by both models, chat-tuned or not."""

SMOKE = [CONTINUATIONS[i] for i in (0, 5, 11, 15, 19, 23)]
"""One of code, prose, Chinese, Russian, emoji and whitespace."""

SCRIPTS = [
    *CONTINUATIONS[:1],
    *CONTINUATIONS[5:6],
    *CONTINUATIONS[8:9],
    *CONTINUATIONS[11:20:2],
    *CONTINUATIONS[21:24:2],
    "Il était une fois, dans un pays lointain,",
    "昔々あるところに、おじいさんと",
    "日本の首都は東京です。フランスの",
    "옛날 옛적에 호랑이가",
    "대한민국의 수도는 서울이다. 일본의",
    "Η πρωτεύουσα της Ελλάδας είναι η Αθήνα. Η",
    "Μια φορά κι έναν καιρό",
    "בירת ישראל היא ירושלים. בירת",
    "היה היה פעם ילד קטן",
    "भारत की राजधानी नई दिल्ली है। फ्रांस की",
    "एक समय की बात है, एक गाँव में",
    "เมืองหลวงของประเทศไทยคือกรุงเทพ เมืองหลวงของ",
    "กาลครั้งหนึ่งนานมาแล้ว",
    " ".join(f"Line {n} of the list has the number {n * n}." for n in range(1, 41)),
]
"""24 prompts in Latin, Han, Kana, Hangul, Cyrillic, Greek, Hebrew, Arabic, Devanagari and Thai. The
last one is longer than Gemma's window of 512 tokens."""
