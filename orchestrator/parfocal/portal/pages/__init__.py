"""The parts of the site; each module has a router. Those of `ROUTERS` lie below a project."""

from parfocal.portal.pages import (
    annotate,
    annotate_image,
    compare,
    data,
    files,
    inboxes,
    jobs,
    methods,
    models,
    operator,
    predict,
    schedules,
    sharing,
    start,
    train,
    trash,
)

_WORK = (start, data, methods, train, jobs, models, predict, annotate, annotate_image, compare)
_OTHERS = (operator, files, inboxes, trash, schedules, sharing)
ROUTERS = tuple(module.router for module in (*_WORK, *_OTHERS))
