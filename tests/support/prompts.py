"""Prompts of many kinds, for tests with real weights."""

CONTINUATIONS = [
    "def fibonacci(n):\n    if n",
    "#include <stdio.h>\n\nint main(void) {\n",
    "SELECT name, COUNT(*) FROM orders\nWHERE",
    "import numpy as np\n\ndef softmax(x):\n",
    "<html>\n  <body>\n    <ul>\n      <li>",
    "Once upon a time, in a village by the sea,",
    "The three distributions of thermodynamics state that",
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
