"""Workflows for people who write no code: Prefect deployments whose forms are made from what the services publish.

```
parfocal.flows.train          the flow behind train/<method>: check, train, predict the test images, quality control
parfocal.flows.predict        the flow behind predict/<method>
parfocal.flows.compare        the flow behind compare/<method>: judge what has not been judged, compare
parfocal.flows.check_dataset  the flow behind check-dataset/<method>: quality control of a dataset alone
parfocal.flows.judge          the flow behind judge/training: the last steps of train, for trainings of commands
parfocal.flows.serve          python -m parfocal.flows.serve: registers and runs the deployments
```

Behind them: `_work` has the steps as plain functions over `parfocal.client`, `_jobs` starts and follows one job,
`_scores`, `_show` and `_quality_pages` turn results into tables and pages, `_follow` reports to Prefect, `catalogue`
and `forms` make the forms, `deployments` keeps them in Prefect, `_process`, `hooks` and `reconcile` keep flow runs and
jobs in step whatever is cancelled, killed or restarted.

Prefect takes seconds to import: nothing outside this package imports it, and here only where it is needed.
"""
