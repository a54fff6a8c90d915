"""Figures of what editing achieved, each with one definition; families are never mixed.

| file | family |
|---|---|
| `tokens` | teacher-forced token accuracy and exact match; locality as agreement with before |
| `memit` | efficacy, generalization, specificity and their harmonic mean |
| `whole` | what generated answers say, the new object or the old one |
| `texts` | fluency and consistency of generated texts |
| `likelihood` | perplexity of targets and of held-out text |
| `ability` | questions about general ability |
"""
