"""`errata bench edit`: editing methods measured as their authors do.

| module | contents |
|---|---|
| `plan` | what to run |
| `suites` | the runs of each suite |
| `system_factory` | opens the system under test for a method's name |
| `unit` | one run: ask, edit, ask again |
| `auxiliary` | what is measured in addition to the records |
| `bench`, `summary` | all runs of a plan, with resumption; figures over all runs |
| `inspections`, `update_cosines`, `experts`, `embedding` | what is measured inside a lane |
| `families`, `report`, `plots`, `compare` | reports, plots and comparisons |
"""
