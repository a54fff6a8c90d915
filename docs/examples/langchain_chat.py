"""A LangChain chain whose model is served by Errata; needs `langchain-openai` and a chat model.

    OPENAI_BASE_URL=http://127.0.0.1:7701/v1 OPENAI_API_KEY=none \
        python langchain_chat.py "What is the capital of France?"
"""

import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from openai import OpenAI

question = " ".join(sys.argv[1:]) or "What is the capital of France?"
name = OpenAI().models.list().data[0].id
# `min_seq` keeps a conversation from meeting a replica that is behind what it has seen.
model = ChatOpenAI(model=name, temperature=0, max_tokens=16, extra_body={"min_seq": 1})
prompt = ChatPromptTemplate.from_messages([("user", "{question}")])
print((prompt | model | StrOutputParser()).invoke({"question": question}))
