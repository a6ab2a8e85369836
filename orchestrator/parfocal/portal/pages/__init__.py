"""The parts of the site; each module has a router. Those of `ROUTERS` lie below a project."""

from parfocal.portal.pages import (
    annotate,
    compare,
    data,
    files,
    jobs,
    methods,
    models,
    operator,
    predict,
    schedules,
    start,
    train,
    trash,
)

ROUTERS = tuple(
    module.router
    for module in (
        start,
        data,
        methods,
        train,
        jobs,
        models,
        predict,
        annotate,
        compare,
        operator,
        files,
        trash,
        schedules,
    )
)
