"""`errata bench edit`: editing methods measured as their authors do.

| file | what it answers |
|---|---|
| `plan` | what is to be run |
| `suites` | which runs a suite consists of |
| `system_factory` | from a method's name to the system that is edited |
| `unit` | one run: ask, edit, ask again |
| `auxiliary` | what is measured beside the records |
| `bench`, `summary` | all runs of a plan, resumed where they were left; what they say together |
| `inspections`, `similarity`, `experts`, `embedding` | what is measured inside a lane |
| `families`, `report`, `plots`, `compare` | what people see |
"""
