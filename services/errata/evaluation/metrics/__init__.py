"""Figures of what editing achieved, each with one definition; families are never mixed.

| file | family |
|---|---|
| `tokens` | teacher-forced token accuracy and exact match; locality as agreement with before |
| `memit` | efficacy, generalization, specificity and their harmonic mean |
| `texts` | fluency and consistency of generated texts |
| `likelihood` | perplexity of targets and of held-out text |
| `ability` | questions about general ability |
"""
