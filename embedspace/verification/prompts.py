"""Prompts of varied length, language and form for which text and embeddings must give the same answer."""

PARITY_PROMPTS: tuple[str, ...] = (
    "What is the capital of France?",
    "Hi",
    "日本の首都はどこですか。",
    "ما هي عاصمة مصر؟",
    "भारत की राजधानी क्या है?",
    "What does this emoji mean: 🧑‍🚀?",
    "  leading and trailing spaces  ",
    "A question\n\nwith empty lines\n\nin it?",
    "def add(a, b):\n    return a + b\n\nWhat does this function do?",
    '{"city": "Oslo", "temperature": -3.5} Which city is it?',
    "user",
    "Once upon a time there was a lighthouse keeper who counted the waves. " * 6 + "What did the keeper do?",
    "2+2?",
    "Name three colours.",
    "Why is the sky blue? Explain it to a child.",
    "Write one line about the sea.",
    "List the numbers from 1 to 10, separated by commas.",
    "Translate to French: I would like a cup of tea, please.",
    "Was ist die Hauptstadt von Deutschland?",
    "¿Cuántos días tiene un año bisiesto?",
    "Quelle est la couleur du ciel ?",
    "中国的首都是哪里？",
    "Какая столица России?",
    "Ποια είναι η πρωτεύουσα της Ελλάδας;",
    "한국의 수도는 어디입니까?",
    "🎉🎉🎉",
    "SELECT name FROM users WHERE id = 42; -- explain",
    "Complete the proverb: a stitch in time",
    "Repeat this word: assistant",
    "Is 17 a prime number? Answer yes or no.",
    "Give me a synonym for 'happy'.",
    "Who wrote Romeo and Juliet?",
    "Please write a polite e-mail to my landlord, asking when the heating will be repaired. It has been cold "
    "for a week, the children are ill, and two earlier messages were not answered.",
    "The mitochondrion is an organelle found in the cells of most eukaryotes. It makes most of the cell's supply of "
    "adenosine triphosphate, which is used as a source of chemical energy. In one sentence, what does it do?",
    "naïve café — “quoted” … ½ × 3 ≈ 1.5",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
)

ANSWERED_PROMPTS = 12
"""The first so many, which differ most in length, language and form, are answered as well; all are tokenised."""
