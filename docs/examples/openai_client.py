"""Asks Errata with the plain OpenAI client: only the environment says whom it calls.

    OPENAI_BASE_URL=http://127.0.0.1:7701/v1 OPENAI_API_KEY=none \
        python openai_client.py "What is the capital of France?"
"""

import sys

from openai import OpenAI

question = " ".join(sys.argv[1:]) or "The capital of France is"
openai = OpenAI()
model = openai.models.list().data[0]
# Errata samples over HTTP, as the OpenAI API does, unless the temperature is 0.
if model.model_dump()["has_chat_template"]:
    messages = [{"role": "user", "content": question}]
    answer = openai.chat.completions.create(
        model=model.id, messages=messages, temperature=0, max_tokens=16
    )
    print(answer.choices[0].message.content)
else:
    answer = openai.completions.create(
        model=model.id, prompt=question, temperature=0, max_tokens=16
    )
    print(answer.choices[0].text)
state = answer.model_dump()["errata"]
print("position:", state["applied_seq"], "edits:", state["edits"])

# An answer at this position or a later one, whichever replica gives it.
later = openai.completions.create(
    model=model.id,
    prompt=question,
    temperature=0,
    max_tokens=16,
    extra_body={"min_seq": int(state["applied_seq"])},
)
print("asked again at:", later.model_dump()["errata"]["applied_seq"])
